"""What the gateway counts and times beside the HTTP metrics of every service."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache as cache_calls

from prometheus_client import Counter, Gauge, Histogram

STAGE_SECONDS = Histogram(
    "diptych_gateway_stage_seconds",
    "Time that a stage of a search took.",
    ["stage"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
CACHE = Counter("diptych_gateway_cache_total", "Look-ups in the cache.", ["cache", "outcome"])
DEGRADED = Counter("diptych_gateway_degraded_total", "Answers ranked without the reranker asked for.", ["reason"])
REFUSED = Counter("diptych_gateway_refused_total", "Requests refused because too many were being worked on.")
NEIGHBOUR_UP = Gauge("diptych_gateway_neighbour_up", "1 when the neighbour answered last time.", ["neighbour"])
PAIR_INFO = Gauge("diptych_gateway_pair_info", "1 for the model and index versions that answer.", ["model", "index"])

# To find the child of some label values takes longer than to count: each is found once.
_stage = cache_calls(STAGE_SECONDS.labels)
cache = cache_calls(CACHE.labels)


class Timings:
    """Milliseconds spent in each stage of one search. A stage entered twice adds up."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            _stage(name).observe(seconds)
            self.milliseconds[name] = round(self.milliseconds.get(name, 0.0) + seconds * 1000, 3)
