"""What an engine does: a model artifact's vectors, tokens and matching logits, whichever library computes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from shared.artifacts import ArtifactError, ModelManifest, read_manifest, verify_files
from shared.tokens import TokenFeatures

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Embedded:
    """``embedding`` float32 (B, D), unit vectors; ``tokens``, the compact token features of each item."""

    embedding: Float32
    tokens: list[TokenFeatures]


class Engine(Protocol):
    """Safe to call from one thread at a time per method."""

    @property
    def manifest(self) -> ModelManifest: ...

    def embed_images(self, pixels: npt.NDArray[np.uint8]) -> Embedded:
        """``pixels`` (B, H, W, 3) as :func:`shared.engines.images.pixels` makes them."""

    def embed_texts(self, texts: Sequence[str]) -> Embedded:
        """Raises :class:`shared.engines.texts.TextError` for an empty or overlong text."""

    def rerank(self, texts: Sequence[TokenFeatures], images: Sequence[TokenFeatures]) -> Float32:
        """Matching logits (B,) of pairs. Raises :class:`NoRerankerError` when the artifact has none."""


class NoRerankerError(ArtifactError):
    """The model was published without a reranker."""


def open_engine(directory: Path, *, engine: str = "auto", device: str = "auto", threads: int | None = None) -> Engine:
    """Check an artifact's files and load it. ``engine``: onnx, torch, or auto (torch where there is a CUDA device).

    ``threads`` bounds the cores that one call uses (None: all). Raises :class:`ArtifactError` for a damaged artifact
    and ValueError for an unknown engine.
    """
    manifest = read_manifest(directory)
    if not isinstance(manifest, ModelManifest):
        raise ArtifactError(f"{directory} holds an {manifest.kind}, not a model")
    verify_files(directory, manifest)
    if engine == "auto":
        engine = _best()
    if engine == "onnx":
        from shared.engines.onnx_engine import OnnxEngine

        return OnnxEngine(directory, threads=threads)
    if engine == "torch":
        from shared.engines.torch_engine import TorchEngine

        return TorchEngine(directory, device=device, threads=threads)
    raise ValueError(f"engine must be auto, onnx or torch, not {engine!r}")


def _best() -> Literal["onnx", "torch"]:
    try:
        import torch
    except ModuleNotFoundError:
        return "onnx"
    return "torch" if torch.cuda.is_available() else "onnx"
