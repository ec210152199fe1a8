"""Latencies, slopes and memory, against values that are known."""

from __future__ import annotations

import os

import pytest

from benchmarks.memory import Watch, megabytes, slopes_per_minute
from benchmarks.statistics import percentiles_ms, slope


def test_percentiles_are_in_milliseconds_and_those_of_nothing_are_none() -> None:
    found = percentiles_ms([n / 1000 for n in range(1, 102)])
    assert found == {"p50_ms": 51, "p90_ms": 91, "p99_ms": 100, "max_ms": 101}
    assert set(percentiles_ms([]).values()) == {None}


def test_the_slope_is_that_of_the_line() -> None:
    assert slope([0, 1, 2, 5], [3, 5, 7, 13]) == pytest.approx(2)
    assert slope([0, 1, 2], [1, 2, 1]) == pytest.approx(0)
    with pytest.raises(ValueError, match="2 points at 1 times"):
        slope([1, 1], [0, 5])


def test_growth_is_counted_after_the_warm_up() -> None:
    samples = [(float(t), {"a": 100.0 - t if t < 10 else 90.0 + t / 60, "b": 50.0}) for t in range(40)]
    found = slopes_per_minute(samples, after=10)
    assert found == {"a": pytest.approx(1), "b": 0, "all": pytest.approx(1)}


def test_memory_that_is_taken_is_seen() -> None:
    own = os.getpid()
    before = megabytes(own)["rss_mb"]
    with Watch({"own": own}, every=0.02) as watch:
        held = bytearray(b"x" * 50_000_000)
        after = megabytes(own)
    assert len(held) == 50_000_000
    assert after["rss_mb"] > before + 40
    assert after["peak_mb"] >= after["rss_mb"]
    assert watch.samples
    assert watch.samples[0][1]["own"] > 0
