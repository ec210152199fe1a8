"""usearch (github.com/unum-cloud/usearch), where it is installed: its graph in half precision, as tuned as ours."""

from __future__ import annotations

import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import vectors


def installed() -> bool:
    return find_spec("usearch") is not None


def measure(work: Path, target: float) -> dict[str, Any]:
    from benchmarks.parts import scale
    from shared.collections.exact import nearest_in_parts

    items = np.load(work / "vectors.npy", mmap_mode="r")
    queries = np.load(work / "queries.npy")
    tuning = queries[: vectors.TUNE // 2]
    index: Any = import_module("usearch.index").Index(ndim=items.shape[1], metric="ip", dtype="f16")
    began = time.perf_counter()
    for start in range(0, len(items), 50_000):
        part = np.ascontiguousarray(items[start : start + 50_000])
        index.add(np.arange(start, start + len(part)), part)
    built = time.perf_counter() - began
    truth = nearest_in_parts(items, tuning, scale.K)[1]
    effort = 16
    while effort < 4096:
        index.expansion_search = effort
        found = index.search(tuning, scale.K).keys
        hits = [len(set(one) & set(other)) / scale.K for one, other in zip(truth, found, strict=True)]
        if np.mean(hits) - np.std(hits) / np.sqrt(len(hits)) >= target:
            break
        effort *= 2

    def search(some: Any) -> Any:
        return np.asarray(index.search(some, scale.K).keys).reshape(len(some), scale.K).astype(np.int64)

    figures = scale.asked(work, search, queries[vectors.TUNE :])
    size = round(index.memory_usage / 1e6, 1)
    return {"effort": effort, "build_seconds": round(built, 1), "disk_mb": size, **figures}
