"""A small real artifact: true architecture and export, random weights. Tests need no training and no downloads."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from shared.artifacts import ModelManifest, read_manifest
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
            bank=16,
            token_dim=16,
            image=ImageTowerConfig(backbone="test_efficientnet", size=96, grid=3, looks=2, dropout=0.0),
            text=TextTowerConfig(
                kind="transformer", vocab_size=len(words), width=64, layers=1, heads=2, max_length=16, dropout=0.0
            ),
        ),
        reranker=RerankerConfig(token_dim=16, width=32, layers=1, heads=2, dropout=0.0) if reranker else None,
    )
    model = Diptych.build(config)
    for hubness in (model.towers.image_hubness, model.towers.text_hubness):
        assert hubness is not None
        hubness.fill(torch.randn_like(hubness.bank), F.normalize(torch.randn(100, 60), dim=1))
    return export.export(model, vocabulary.tokenizer(words), directory, name=name, version=version, vocabulary=words)


def model_manifest(directory: Path) -> ModelManifest:
    """The manifest of an artifact that is a model."""
    manifest = read_manifest(directory)
    assert isinstance(manifest, ModelManifest)
    return manifest
