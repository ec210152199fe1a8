"""The ONNX Runtime engine: the default without a GPU, and all that a serving machine needs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shared.artifacts import ArtifactError, ModelManifest, read_manifest
from shared.engines.engine import Compact, Embedded, Float32, NoRerankerError, pair_batches
from shared.engines.texts import TextTokenizer
from shared.tokens import TokenFeatures

# ONNX Runtime reports its use, and keeps a device id in the home directory, unless told not to before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_PAIR = ("text_tokens", "text_mask", "image_tokens")


class OnnxEngine:
    """An :class:`shared.engines.Engine` over the artifact's graphs."""

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
        options = ort.SessionOptions()
        options.log_severity_level = 3
        # Threads that spin between calls take three times the cores that the calls need, from the services beside.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if threads is not None:
            options.intra_op_num_threads = threads
        providers = _providers(device)

        def session(name: str) -> ort.InferenceSession:
            try:
                return ort.InferenceSession(str(directory / name), options, providers=providers)
            except Exception as error:  # ONNX Runtime's errors share no base class
                raise ArtifactError(f"{directory / name} cannot be loaded: {error}") from error

        self._image = session("image.onnx")
        self._text = session("text.onnx")
        self._reranker = session("reranker.onnx") if manifest.has_reranker else None

    @property
    def runtime(self) -> str:
        return "onnx cuda" if _CUDA in self._image.get_providers() else "onnx cpu"

    def embed_images(self, pixels: npt.NDArray[np.uint8]) -> Embedded:
        embedding, tokens = self._image.run(["embedding", "tokens"], {"pixels": pixels})
        return Embedded(embedding, [self._compact(item) for item in tokens])

    def embed_texts(self, texts: Sequence[str]) -> Embedded:
        ids, mask = self.tokenizer.encode(texts)
        feed = {"input_ids": ids, "attention_mask": mask}
        embedding, tokens = self._text.run(["embedding", "tokens"], feed)
        return Embedded(embedding, [self._compact(t[: m.sum()]) for t, m in zip(tokens, mask, strict=True)])

    def rerank(self, texts: Sequence[TokenFeatures], images: Sequence[TokenFeatures]) -> Float32:
        if self._reranker is None:
            raise NoRerankerError(f"model {self.manifest.ref} has no reranker")
        places = self._reranker.get_inputs()[2].shape[1]
        batches = pair_batches(texts, images, max_length=self.manifest.tokenization.max_length, places=places)
        logits = [self._reranker.run(["logit"], dict(zip(_PAIR, batch, strict=True)))[0] for batch in batches]
        return np.concatenate(logits) if logits else np.zeros(0, np.float32)


def _providers(device: str) -> list[str | tuple[str, dict[str, int]]]:
    kind, _, number = device.partition(":")
    if kind == "cpu" or (kind == "auto" and _CUDA not in ort.get_available_providers()):
        return [_CPU]
    if _CUDA not in ort.get_available_providers():
        raise ValueError(
            f"device {device} was asked for, but this ONNX Runtime has only {ort.get_available_providers()}"
        )
    return [(_CUDA, {"device_id": int(number or 0)}), _CPU]
