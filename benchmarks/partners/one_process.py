"""The same work in one process: the engine, the same collection and the same scores, without HTTP and without a cache.

``concurrency`` callers that wait for each other are one batch: nothing that serves them one by one can be quicker.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.questions import caption
from benchmarks.statistics import percentiles_ms
from shared import scoring
from shared.artifacts import ArtifactStore, Ref
from shared.collections import IndexDirectory
from shared.engines import open_engine
from shared.engines.images import pixels
from shared.schemas import ModelType

DEPTH, K = 50, 10
_IMAGES_AT_ONCE, _TEXTS_AT_ONCE, _DECODERS = 8, 32, 2  # as the encoder's


class OneProcess:
    """Everything in memory, as the services have it."""

    def __init__(self, store: Path) -> None:
        shelf = ArtifactStore(store)
        current = shelf.current()
        assert current is not None
        assert current.index is not None
        self.engine = open_engine(shelf.path("model", Ref.parse(current.model)), engine="onnx")
        self.index = IndexDirectory.open(shelf.path("index", Ref.parse(current.index)))
        self._pool = ThreadPoolExecutor(_DECODERS)

    def answer(self, queries: Sequence[str | bytes], model_type: ModelType) -> list[list[dict[str, Any]]]:
        """The ``K`` best of each query, with what is stored about them."""
        kind: Literal["text", "image"] = "text" if isinstance(queries[0], str) else "image"
        collection = self.index.images if kind == "text" else self.index.captions
        parts = list(self._embedded(queries))
        vectors = np.concatenate([part.embedding for part in parts])
        tokens = [one for part in parts for one in part.tokens]
        cosines, ids = collection.search(vectors, DEPTH if model_type == "cross" else K)
        return [self._ranked(kind, collection, *row, model_type) for row in zip(tokens, cosines, ids, strict=True)]

    def _embedded(self, queries: Sequence[Any]) -> Any:
        most = _TEXTS_AT_ONCE if isinstance(queries[0], str) else _IMAGES_AT_ONCE
        for start in range(0, len(queries), most):
            some = queries[start : start + most]
            if isinstance(some[0], str):
                yield self.engine.embed_texts(some)
            else:
                made = self._pool.map(lambda data: pixels(data, self.engine.manifest.preprocessing), some)
                yield self.engine.embed_images(np.stack(list(made)))

    def _ranked(
        self,
        kind: Literal["text", "image"],
        collection: Any,
        tokens: Any,
        cosines: Any,
        ids: Any,
        model_type: ModelType,
    ) -> list[dict[str, Any]]:
        how = self.engine.manifest.scoring
        if model_type == "dual":
            order, scores = scoring.rank_dual(cosines, how)
        else:
            asked, found = [tokens] * len(ids), collection.tokens(ids)
            logits = self.engine.rerank(*((asked, found) if kind == "text" else (found, asked)))
            order, scores = scoring.rank_cross(cosines, logits, how, kind)
        best = [ids[row] for row in order[:K]]
        stored = collection.metadata(best)
        return [{"id": one, "score": float(s), **about} for one, s, about in zip(best, scores[:K], stored, strict=True)]


def measure(store: Path, photos: Sequence[bytes], concurrencies: Sequence[int], seconds: float) -> list[dict[str, Any]]:
    """Points of both directions and both models."""
    everything = OneProcess(store)
    found = []
    numbers = itertools.count()
    models: tuple[ModelType, ...] = ("dual", "cross")
    for what, model_type, concurrency in itertools.product(("text to image", "image to text"), models, concurrencies):
        latencies: list[float] = []
        began, first = time.perf_counter(), True
        while first or time.perf_counter() - began < seconds:
            queries: list[Any] = [
                caption(next(numbers)) if what == "text to image" else photos[next(numbers) % len(photos)]
                for _ in range(concurrency)
            ]
            asked = time.perf_counter()
            everything.answer(queries, model_type)
            latencies += [time.perf_counter() - asked] * concurrency
            if first and time.perf_counter() - began < seconds / 2:  # the first call warms up
                latencies.clear()
                began = time.perf_counter()
            first = False
        passed = time.perf_counter() - began
        about = {"system": "one process", "what": what, "model_type": model_type, "cached": False}
        about |= {"concurrency": concurrency, "seconds": round(passed, 2), "answers": len(latencies)}
        found.append({**about, "throughput": round(len(latencies) / passed, 2), **percentiles_ms(latencies)})
    return found
