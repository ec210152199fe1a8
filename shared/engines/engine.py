"""What an engine does: a model artifact's vectors, tokens and matching logits, whichever library computes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from shared.artifacts import ArtifactError, ModelManifest, read_manifest, verify_files
from shared.tokens import TokenFeatures, pad

Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]
Compact = Callable[[Float32], TokenFeatures]

# Pairs in one call of the reranker. More make no pair cheaper on a CPU, and each takes a megabyte.
_PAIRS = 128


@dataclass(frozen=True)
class Embedded:
    """``embedding`` float32 (B, D), unit vectors; ``tokens``, the compact token features of each item."""

    embedding: Float32
    tokens: list[TokenFeatures]


class Engine(Protocol):
    """Safe to call from several threads at once."""

    @property
    def manifest(self) -> ModelManifest: ...

    @property
    def runtime(self) -> str:
        """Library and device, as in ``onnx cpu``."""

    def embed_images(self, pixels: npt.NDArray[np.uint8]) -> Embedded:
        """``pixels`` (B, H, W, 3) as :func:`shared.engines.images.pixels` makes them."""

    def embed_texts(self, texts: Sequence[str]) -> Embedded:
        """Raises :class:`shared.engines.texts.TextError` for an empty or overlong text."""

    def rerank(self, texts: Sequence[TokenFeatures], images: Sequence[TokenFeatures]) -> Float32:
        """Matching logits (B,) of B pairs.

        Raises :class:`NoRerankerError` when the artifact has none, :class:`TokensError` for tokens that are not its.
        """


class NoRerankerError(ArtifactError):
    """The model was published without a reranker."""


class TokensError(ValueError):
    """Tokens that this model gives to no text or no image."""


def open_engine(
    directory: Path,
    *,
    engine: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    compact: Compact = TokenFeatures.quantise,
) -> Engine:
    """Check an artifact's files and load it.

    ``engine``: onnx, torch, or auto (torch where there is a CUDA device). ``device``: cpu, cuda, cuda:N, or auto (CUDA
    where there is one). ``threads`` bounds the cores that one call uses (None: all). ``compact`` makes tokens small
    enough to store. Raises :class:`ArtifactError` for a damaged artifact, ValueError for an engine that is unknown or a
    device that is not there.
    """
    manifest = read_manifest(directory)
    if not isinstance(manifest, ModelManifest):
        raise ArtifactError(f"{directory} holds an {manifest.kind}, not a model")
    verify_files(directory, manifest)
    if engine == "auto":
        engine = _best()
    if engine == "onnx":
        from shared.engines.onnx_engine import OnnxEngine

        return OnnxEngine(directory, device=device, threads=threads, compact=compact)
    if engine == "torch":
        from shared.engines.torch_engine import TorchEngine

        return TorchEngine(directory, device=device, threads=threads, compact=compact)
    raise ValueError(f"engine must be auto, onnx or torch, not {engine!r}")


def pair_batches(
    texts: Sequence[TokenFeatures], images: Sequence[TokenFeatures], *, max_length: int, places: int
) -> Iterator[tuple[Float32, Bool, Float32]]:
    """Pairs made ready for the reranker: text tokens (B, T, d), their mask (B, T), image tokens (B, places, d).

    Raises :class:`TokensError` when a text has over ``max_length`` tokens or an image not ``places``.
    """
    if len(texts) != len(images):
        raise TokensError(f"{len(texts)} texts and {len(images)} images make no pairs")
    if (longest := max(map(len, texts), default=0)) > max_length:
        raise TokensError(f"a text has {longest} tokens; this model makes at most {max_length}")
    if wrong := {len(image) for image in images} - {places}:
        raise TokensError(f"an image has {wrong.pop()} tokens; this model makes {places}")
    for start in range(0, len(texts), _PAIRS):
        rows = slice(start, start + _PAIRS)
        yield *pad(texts[rows]), pad(images[rows])[0]


def _best() -> Literal["onnx", "torch"]:
    try:
        import torch
    except ModuleNotFoundError:
        return "onnx"
    return "torch" if torch.cuda.is_available() else "onnx"
