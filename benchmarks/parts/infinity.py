"""Text embedding by our encoder and by infinity, in turn. Both run all the time; one of them is asked at a time."""

from __future__ import annotations

from itertools import product

from benchmarks.bench import CONCURRENCIES, Bench, Figures
from benchmarks.memory import megabytes
from benchmarks.partners import infinity
from benchmarks.questions import EmbedText

TEXTS = (1, 16)  # in one request


def measure(bench: Bench) -> Figures:
    bench.say("installing infinity and exporting its graph (once)")
    points = []
    with bench.stack("encoder") as stack, infinity.serving(bench.work / "infinity.log") as (url, pid):
        for texts, concurrency in product(TEXTS, CONCURRENCIES):
            for system, at, model in (("encoder", stack.url("encoder"), None), ("infinity", url, infinity.NAME)):
                about: Figures = {"system": system, "what": "text", "batch": texts}
                points.append(bench.point(about, at, EmbedText(texts, model), concurrency, each=texts))
        memory = {**stack.memory(), "infinity": megabytes(pid)}
    return {"points": points, "memory": memory, "lock": infinity.LOCK.name}
