"""The encoder over HTTP, beside the bare engine."""

from __future__ import annotations

from itertools import product

from benchmarks.bench import CONCURRENCIES, Bench, Figures
from benchmarks.partners import engine
from benchmarks.questions import EmbedImage, EmbedText, Questions

_SWEEP_SECONDS = 1.5


def measure(bench: Bench) -> Figures:
    points = []
    with bench.stack("encoder") as stack:
        kinds: dict[str, Questions] = {"text": EmbedText(), "image file": EmbedImage(bench.photos)}
        for (what, questions), concurrency in product(kinds.items(), CONCURRENCIES):
            about: Figures = {"system": "encoder", "what": what}
            points.append(bench.point(about, stack.url("encoder"), questions, concurrency))
        memory = stack.memory()
    sweep = bench.alone(engine.sweep, bench.photos, min(bench.seconds, _SWEEP_SECONDS))
    return {"points": [*points, *map(bench.note, sweep)], "memory": memory}
