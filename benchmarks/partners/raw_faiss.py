"""FAISS alone: one flat index, called again and again with as many queries at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import faiss

from benchmarks.questions import unit_vectors


def sweep(items: int, dim: int, batches: Sequence[int], k: int, seconds: float) -> list[dict[str, Any]]:
    """Queries a second at each batch."""
    index = faiss.IndexFlatIP(dim)
    index.add(unit_vectors(0, items, dim))
    found = []
    for batch in batches:
        queries = [unit_vectors(1 + n, batch, dim) for n in range(8)]
        index.search(queries[0], k)
        calls, began = 0, time.perf_counter()
        while (passed := time.perf_counter() - began) < seconds:
            index.search(queries[calls % len(queries)], k)
            calls += 1
        about = {"system": "raw FAISS", "what": "search", "items": items, "batch": batch}
        found.append({**about, "throughput": round(calls * batch / passed, 2), "ms": round(passed / calls * 1000, 3)})
    return found
