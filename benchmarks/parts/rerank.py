"""The reranker's stage: 50 candidates from stored tokens, against embedding their photos again."""

from __future__ import annotations

import numpy as np

from benchmarks.bench import CONCURRENCIES, Bench, Figures
from benchmarks.collection import token_features
from benchmarks.partners import engine
from benchmarks.questions import Rerank, TextToImage
from shared.artifacts import ArtifactStore, Ref

_CANDIDATES, _IMAGE_TOKENS, _TEXT_TOKENS = 50, 49, 14


def measure(bench: Bench) -> Figures:
    store = ArtifactStore(bench.state.store)
    current = store.current()
    assert current is not None
    dim = store.model(Ref.parse(current.model)).token_dim
    rng = np.random.default_rng(0)
    photos = [token_features(rng, _IMAGE_TOKENS, dim) for _ in range(_CANDIDATES)]
    questions = Rerank(token_features(rng, _TEXT_TOKENS, dim), photos)
    points = []
    with bench.stack("redis", "encoder", "index", "gateway") as stack:
        for concurrency in CONCURRENCIES:
            about: Figures = {"system": "encoder", "what": f"rerank {_CANDIDATES}"}
            points.append(bench.point(about, stack.url("encoder"), questions, concurrency))
        # One after the other and then again: what reranking adds is a difference of two medians.
        for model_type in ("dual", "cross", "dual", "cross"):
            about = {"system": "diptych", "what": "text to image", "model_type": model_type}
            points.append(bench.point(about, stack.url("gateway"), TextToImage(model_type), 1))
    alone = bench.alone(engine.reranking, bench.photos, bench.seconds)
    return {"candidates": _CANDIDATES, "points": points, "bare_engine": alone}
