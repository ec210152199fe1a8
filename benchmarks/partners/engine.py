"""The bare engine: model calls one after the other, at each batch size."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from benchmarks.questions import caption
from diptych import shipped
from shared.engines import Engine, open_engine
from shared.engines.images import pixels
from shared.tokens import TokenFeatures

Pixels = npt.NDArray[np.uint8]

IMAGE_BATCHES = (1, 2, 4, 8, 16, 32)
TEXT_BATCHES = (1, 4, 8, 16, 32, 64)
_DECODERS = 2  # as the encoder has
_CANDIDATES = 50


def sweep(photos: Sequence[bytes], seconds: float) -> list[dict[str, object]]:
    """Items a second: of images from pixels, of images from JPEG files (decoding in threads beside), and of texts."""
    engine = open_engine(shipped.model(), engine="onnx")
    made = np.stack([pixels(photo, engine.manifest.preprocessing) for photo in photos])
    found: list[dict[str, object]] = []
    for batch in IMAGE_BATCHES:

        def images(n: int, batch: int = batch) -> None:
            engine.embed_images(_rows(made, n, batch))

        found.append(_point("image", batch, images, seconds))
    with ThreadPoolExecutor(_DECODERS) as pool:
        for batch in IMAGE_BATCHES:

            def both(n: int, batch: int = batch) -> None:
                embed_files(engine, [photos[(n * batch + i) % len(photos)] for i in range(batch)], pool)

            found.append(_point("image file", batch, both, seconds))
    for batch in TEXT_BATCHES:

        def texts(n: int, batch: int = batch) -> None:
            engine.embed_texts([caption(n * batch + i) for i in range(batch)])

        found.append(_point("text", batch, texts, seconds))
    return found


def reranking(photos: Sequence[bytes], seconds: float) -> dict[str, float]:
    """Milliseconds to rerank 50 candidates from their tokens, and to embed their photos again, at the best batch."""
    engine = open_engine(shipped.model(), engine="onnx")
    text = engine.embed_texts([caption(1)]).tokens
    files = [photos[n % len(photos)] for n in range(_CANDIDATES)]
    with ThreadPoolExecutor(_DECODERS) as pool:
        tokens = embed_files(engine, files, pool)
        rerank = _point("", 1, lambda _: engine.rerank(text * _CANDIDATES, tokens), seconds)
        again = _point("", 1, lambda _: embed_files(engine, files, pool), seconds)
    return {"rerank_ms": _number(rerank["ms"]), "embed_again_ms": _number(again["ms"])}


def embed_files(engine: Engine, files: Sequence[bytes], pool: ThreadPoolExecutor, most: int = 8) -> list[TokenFeatures]:
    """Tokens of image files, at most ``most`` in one model call, as in the encoder."""
    found: list[TokenFeatures] = []
    decoded = list(pool.map(lambda file: pixels(file, engine.manifest.preprocessing), files))
    for start in range(0, len(decoded), most):
        found += engine.embed_images(np.stack(decoded[start : start + most])).tokens
    return found


def _point(what: str, batch: int, call: Callable[[int], object], seconds: float) -> dict[str, object]:
    call(0)
    calls, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds or calls < 3:
        calls += 1
        call(calls)
    return {
        "system": "bare engine",
        "what": what,
        "batch": batch,
        "throughput": round(calls * batch / passed, 2),
        "ms": round(passed / calls * 1000, 3),
    }


def _rows(array: Pixels, number: int, batch: int) -> Pixels:
    return array.take(range(number * batch, number * batch + batch), axis=0, mode="wrap")


def _number(value: object) -> float:
    assert isinstance(value, float)
    return value
