"""The torch engine: for GPUs, in bfloat16; on a CPU it computes what training computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from shared.artifacts import ModelManifest, read_manifest
from shared.engines.engine import Compact, Embedded, Float32, NoRerankerError, pair_batches
from shared.engines.texts import TextTokenizer
from shared.models import load
from shared.tokens import TokenFeatures


class TorchEngine:
    """An :class:`shared.engines.Engine` over the torch modules."""

    def __init__(
        self,
        directory: Path,
        *,
        device: str = "auto",
        threads: int | None = None,
        compact: Compact = TokenFeatures.quantise,
    ) -> None:
        manifest = read_manifest(directory)
        assert isinstance(manifest, ModelManifest)
        self.manifest = manifest
        self._compact = compact
        self.tokenizer = TextTokenizer(directory, manifest.tokenization)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"device {device} was asked for, but torch {torch.__version__} sees no CUDA device here")
        self._device = torch.device(device)
        if threads is not None and device == "cpu":
            torch.set_num_threads(threads)
        self._model = load(directory).to(self._device).to(memory_format=torch.channels_last)

    @property
    def runtime(self) -> str:
        return f"torch {self._device}"

    def embed_images(self, pixels: npt.NDArray[np.uint8]) -> Embedded:
        with self._inference():
            embedding, tokens = self._model.encode_image(torch.tensor(pixels, device=self._device))
        return Embedded(_unit(embedding), [self._compact(item) for item in _numpy(tokens)])

    def embed_texts(self, texts: Sequence[str]) -> Embedded:
        ids, mask = self.tokenizer.encode(texts)
        with self._inference():
            embedding, tokens = self._model.encode_text(
                torch.from_numpy(ids).to(self._device), torch.from_numpy(mask).to(self._device)
            )
        items = zip(_numpy(tokens), mask, strict=True)
        return Embedded(_unit(embedding), [self._compact(t[: m.sum()]) for t, m in items])

    def rerank(self, texts: Sequence[TokenFeatures], images: Sequence[TokenFeatures]) -> Float32:
        if self._model.reranker is None:
            raise NoRerankerError(f"model {self.manifest.ref} has no reranker")
        places = self._model.towers.image.side**2
        batches = pair_batches(texts, images, max_length=self.manifest.tokenization.max_length, places=places)
        with self._inference():
            logits = [
                _numpy(self._model.reranker(*(torch.from_numpy(array).to(self._device) for array in batch)))
                for batch in batches
            ]
        return np.concatenate(logits) if logits else np.zeros(0, np.float32)

    @contextmanager
    def _inference(self) -> Iterator[None]:
        half = torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda")
        with torch.inference_mode(), half:
            yield


def _numpy(tensor: torch.Tensor) -> Float32:
    array: Float32 = tensor.float().cpu().numpy()
    return array


def _unit(embedding: torch.Tensor) -> Float32:
    """bfloat16 rounds a unit vector's length by up to half a percent; float32 restores it."""
    return _numpy(F.normalize(embedding.float(), dim=-1))
