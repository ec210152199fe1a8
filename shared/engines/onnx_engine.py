"""The ONNX Runtime engine: the default without a GPU, and all that a serving machine needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from shared.artifacts import ArtifactError, ModelManifest, read_manifest
from shared.engines.engine import Embedded, Float32, NoRerankerError
from shared.engines.texts import TextTokenizer
from shared.tokens import TokenFeatures, pad


class OnnxEngine:
    """An :class:`shared.engines.Engine` over the artifact's graphs."""

    def __init__(self, directory: Path, *, threads: int | None = None) -> None:
        manifest = read_manifest(directory)
        assert isinstance(manifest, ModelManifest)
        self.manifest = manifest
        self.tokenizer = TextTokenizer(directory, manifest.tokenization)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        wanted = [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in ort.get_available_providers()]

        def session(name: str) -> ort.InferenceSession:
            try:
                return ort.InferenceSession(str(directory / name), options, providers=wanted)
            except Exception as error:  # ONNX Runtime's errors share no base class
                raise ArtifactError(f"{directory / name} cannot be loaded: {error}") from error

        self._image = session("image.onnx")
        self._text = session("text.onnx")
        self._reranker = session("reranker.onnx") if manifest.has_reranker else None

    def embed_images(self, pixels: npt.NDArray[np.uint8]) -> Embedded:
        embedding, tokens = self._image.run(["embedding", "tokens"], {"pixels": pixels})
        return Embedded(embedding, [TokenFeatures.quantise(item) for item in tokens])

    def embed_texts(self, texts: Sequence[str]) -> Embedded:
        ids, mask = self.tokenizer.encode(texts)
        feed = {"input_ids": ids, "attention_mask": mask}
        embedding, tokens = self._text.run(["embedding", "tokens"], feed)
        return Embedded(embedding, [TokenFeatures.quantise(t[: m.sum()]) for t, m in zip(tokens, mask, strict=True)])

    def rerank(self, texts: Sequence[TokenFeatures], images: Sequence[TokenFeatures]) -> Float32:
        if self._reranker is None:
            raise NoRerankerError(f"model {self.manifest.ref} has no reranker")
        text_tokens, text_mask = pad(texts)
        image_tokens, _ = pad(images)
        feed = {"text_tokens": text_tokens, "text_mask": text_mask, "image_tokens": image_tokens}
        logits: Float32 = self._reranker.run(["logit"], feed)[0]
        return logits
