"""What a finished job leaves for the next one: float32 weights, architecture, tokenizer, and how it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from shared.artifacts import ModelManifest, read_manifest
from shared.models import Diptych, DiptychConfig
from shared.models import load as load_modules
from training.data import vocabulary

WEIGHTS, RECORD, TOKENIZER, VOCABULARY = "model.safetensors", "checkpoint.json", "tokenizer.json", "vocab.json"


class CheckpointError(Exception):
    """The folder holds no finished training run, or a damaged one."""


@dataclass
class Checkpoint:
    """``metrics`` are dev figures by stage, ``training`` each stage's options."""

    model: Diptych
    tokenizer: Tokenizer
    words: Mapping[str, int] | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        save_file({k: v.contiguous() for k, v in self.model.state_dict().items()}, folder / WEIGHTS)
        self.tokenizer.save(str(folder / TOKENIZER))
        if self.words is not None:
            vocabulary.save(self.words, folder / VOCABULARY)
        record = {
            "config": self.model.config.model_dump(mode="json"),
            "metrics": self.metrics,
            "training": self.training,
        }
        (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    @staticmethod
    def load(folder: Path) -> Checkpoint:
        """Raises :class:`CheckpointError`."""
        try:
            record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            model = Diptych.build(DiptychConfig.model_validate(record["config"]))
            model.load_state_dict(load_file(folder / WEIGHTS))
            metrics, training = record["metrics"], record["training"]
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(f"{folder} does not hold a finished training run: {error}") from error
        return Checkpoint(model.eval(), *_language(folder, TOKENIZER), metrics, training)

    @staticmethod
    def published(artifact: Path) -> Checkpoint:
        """A model artifact as if it were the run that it came from, but for its weights, which are those it serves.

        Raises :class:`CheckpointError`, and :class:`shared.artifacts.ArtifactError` where it is damaged.
        """
        manifest = read_manifest(artifact)
        if not isinstance(manifest, ModelManifest):
            raise CheckpointError(f"{artifact} holds an index; give the folder of a model")
        language = _language(artifact, manifest.tokenization.file)
        return Checkpoint(load_modules(artifact), *language, manifest.metrics, manifest.training)


def _language(folder: Path, file: str) -> tuple[Tokenizer, dict[str, int] | None]:
    """The tokenizer, and the words of a vocabulary that was built for it."""
    try:
        tokenizer = Tokenizer.from_file(str(folder / file))
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(f"{folder / file} cannot be read: {error}") from error
    words = folder / VOCABULARY
    return tokenizer, vocabulary.load(words) if words.exists() else None


def describe(options: object) -> dict[str, Any]:
    """A job's options as the record keeps them: no folders, no device, nothing of the machine it ran on."""
    kept = {k: v for k, v in vars(options).items() if not isinstance(v, Path) and k != "device"}
    return {k: Path(v).name if k.endswith("_weights") else v for k, v in kept.items()}
