"""As many vectors as are wanted, of real ones: what a scale is measured with.

The base are embeddings by the shipped model: photos of a data set, asked for by its captions, or, without one, made
captions, asked for by other made captions. An item lies at random on the line from one of the base to one of its ten
neighbours, and is moved by 0.3 of the difference of two more: so the cloud keeps its shape and its clusters, and no
item is an embedding itself. Queries are embeddings as they are, of texts that are in no item.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from benchmarks.questions import caption
from diptych import shipped
from shared.collections.exact import Float32, nearest
from shared.engines import Engine, open_engine
from shared.engines.images import pixels

TUNE, MEASURE = 1024, 1000
_BASE = 8000
_CHUNK = 20_000
_NOISE = 0.3


def embedded(kept: Path, folder: Path, data: Path | None) -> None:
    """Write ``base.npy`` (up to 8,000) and ``queries.npy`` (2,024) into ``kept``, where they are not yet, and copy them
    into ``folder``."""
    if not (kept / "queries.npy").exists():
        kept.mkdir(parents=True, exist_ok=True)
        _embed(kept, data)
    for name in ("base.npy", "queries.npy"):
        shutil.copyfile(kept / name, folder / name)


def _embed(folder: Path, data: Path | None) -> None:
    engine, asked = open_engine(shipped.model(), engine="onnx"), TUNE + MEASURE
    rng = np.random.default_rng(0)
    if data is None:
        base = _texts(engine, [caption(n) for n in range(_BASE)])
        said = [caption(1_000_000 + n) for n in range(asked)]
    else:
        from training.data import layouts

        images = layouts.load(data, "all").images[:_BASE]
        shape = engine.manifest.preprocessing
        parts = [images[start : start + 32] for start in range(0, len(images), 32)]
        seen = [engine.embed_images(np.stack([pixels(one.path.read_bytes(), shape) for one in part])) for part in parts]
        base = np.concatenate([one.embedding for one in seen])
        captions = [text for image in images for text in image.captions]
        said = [captions[n] for n in rng.choice(len(captions), asked, replace=False)]
    np.save(folder / "base.npy", base)
    np.save(folder / "queries.npy", rng.permutation(_texts(engine, said)))


def write(folder: Path, items: int) -> None:
    """Write ``vectors.npy`` (items, D) of ``base.npy``, a chunk at a time, and ``truth.npy`` (n, 10), the rows that
    exact search finds for the queries that measure."""
    base: Float32 = np.load(folder / "base.npy")
    neighbours = nearest(base, base, 11)[1]
    rng = np.random.default_rng(1)
    vectors = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float32, (items, base.shape[1]))
    queries: Float32 = np.load(folder / "queries.npy")[TUNE:]
    scores, rows = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    for start in range(0, items, _CHUNK):
        n = min(_CHUNK, items - start)
        one, other, another = rng.integers(0, len(base), (3, n))
        near = neighbours[one, rng.integers(0, neighbours.shape[1], n)]
        made = base[one] + rng.random((n, 1), np.float32) * (base[near] - base[one])
        made += _NOISE * (base[other] - base[another])
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        vectors[start : start + n] = made
        found = nearest(made, queries, 10)
        scores, rows = np.hstack([scores, found[0]]), np.hstack([rows, found[1] + start])
        best = np.argsort(-scores, axis=1, kind="stable")[:, :10]
        scores, rows = np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)
    vectors.flush()
    np.save(folder / "truth.npy", rows)


def _texts(engine: Engine, texts: list[str]) -> Float32:
    parts = [engine.embed_texts(texts[start : start + 64]).embedding for start in range(0, len(texts), 64)]
    return np.concatenate(parts)
