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
ENCODER_OUTSTANDING = Gauge(
    "diptych_gateway_encoder_outstanding", "Requests of this gateway that an encoder works on.", ["replica"]
)
ENCODER_EJECTED = Gauge(
    "diptych_gateway_encoder_ejected",
    "1 while an encoder is put aside: it is dead, refuses, or is much slower than the others.",
    ["replica"],
)
ENCODER_SECONDS = Histogram(
    "diptych_gateway_encoder_seconds",
    "Time that good answers of an encoder took.",
    ["replica"],
    buckets=(0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
ENCODER_RETRIED = Counter(
    "diptych_gateway_encoder_retried_total", "Requests that another encoder was asked, for the first one failed."
)

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
