"""The index service beside FAISS itself, at equal batches. Throughput is in queries a second."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from itertools import product

from benchmarks.bench import Bench, Figures
from benchmarks.partners import raw_faiss
from benchmarks.questions import Search

BATCHES, CALLERS, K = (1, 16, 64), (1, 4, 16), 10
_SWEEP_SECONDS = 1.5


def measure(bench: Bench) -> Figures:
    dim = 512
    points = []
    with bench.stack("index") as stack:
        for batch, callers in product(BATCHES, CALLERS):
            about: Figures = {"system": "index", "what": "search", "items": bench.images, "batch": batch}
            points.append(bench.point(about, stack.url("index"), Search(dim, batch, K), callers, each=batch))
        memory = stack.memory()
    seconds = min(bench.seconds, _SWEEP_SECONDS)
    raw = bench.alone(raw_faiss.sweep, bench.images, dim, BATCHES, K, seconds)
    return {"points": [*points, *map(bench.note, raw)], "memory": memory, "stored_bytes": stored_bytes(bench)}


def stored_bytes(bench: Bench) -> Figures:
    """What a photo and a caption take in the item store: vectors, tokens, and their share of what is around them."""
    path = next(bench.state.store.glob("indexes/*/*/items.sqlite"))
    size = "sum(length(id) + length(metadata) + length(vector) + length(codes) + length(scales))"
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(f"SELECT collection, count(*), {size} FROM items GROUP BY collection").fetchall()  # noqa: S608
    around = path.stat().st_size / sum(total for _, _, total in rows)
    names = {"images": "photo", "captions": "caption"}
    return {names[name]: round(around * total / count) for name, count, total in rows}
