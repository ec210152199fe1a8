"""A small real artifact: true architecture and export, random weights. Tests need no training and no downloads."""

from __future__ import annotations

from pathlib import Path

import torch

from shared.artifacts import ModelManifest
from shared.models import Diptych, DiptychConfig, ImageTowerConfig, RerankerConfig, TextTowerConfig, TowersConfig
from training import export
from training.data import vocabulary

WORDS = (
    *("a", "an", "the", "is", "and", "on", "in", "with", "of", "dog", "cat", "child", "man", "woman", "runs", "sits"),
    *("plays", "red", "blue", "green", "yellow", "ball", "car", "tree", "beach", "snow", "ground"),
)


def tiny_artifact(
    directory: Path, *, seed: int = 0, reranker: bool = True, name: str = "tiny", version: str = "1"
) -> ModelManifest:
    """Export a random model with 64-d embeddings and 16-d tokens into ``directory``; equal seeds give equal weights."""
    torch.manual_seed(seed)
    words = vocabulary.build(WORDS, min_count=1)
    config = DiptychConfig(
        towers=TowersConfig(
            embedding_dim=64,
            token_dim=16,
            image=ImageTowerConfig(backbone="test_efficientnet", size=96, grid=3, width=64, heads=2, dropout=0.0),
            text=TextTowerConfig(
                kind="transformer", vocab_size=len(words), width=64, layers=1, heads=2, max_length=16, dropout=0.0
            ),
        ),
        reranker=RerankerConfig(token_dim=16, width=32, layers=1, heads=2, dropout=0.0) if reranker else None,
    )
    return export.export(
        Diptych.build(config), vocabulary.tokenizer(words), directory, name=name, version=version, vocabulary=words
    )
