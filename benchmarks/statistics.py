"""Latencies and slopes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PERCENTILES = (50, 90, 99)


def percentiles_ms(seconds: Sequence[float]) -> dict[str, float | None]:
    """``p50_ms``, ``p90_ms``, ``p99_ms`` and ``max_ms`` of latencies in seconds; None of none."""
    names = [*(f"p{p}_ms" for p in PERCENTILES), "max_ms"]
    if not len(seconds):
        return dict.fromkeys(names)
    found = np.percentile(np.asarray(seconds), [*PERCENTILES, 100]) * 1000
    return {name: round(float(value), 3) for name, value in zip(names, found, strict=True)}


def slope(times: Sequence[float], values: Sequence[float]) -> float:
    """Of the line through the points that fits best by least squares, in values a unit of time. Raises ValueError for
    less than two different times."""
    t, v = np.asarray(times, np.float64), np.asarray(values, np.float64)
    if len(t) < 2 or np.ptp(t) == 0:
        raise ValueError(f"{len(t)} points at {len(set(times))} times have no slope")
    t = t - t.mean()
    return float((t @ (v - v.mean())) / (t @ t))
