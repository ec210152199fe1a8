"""Everything that is asked, mixed, at full load for minutes: whether memory grows."""

from __future__ import annotations

from benchmarks.bench import Bench, Figures
from benchmarks.load import Plan
from benchmarks.memory import Watch, slopes_per_minute
from benchmarks.questions import ImageToText, InTurn, TextToImage

CALLERS = 16
_BIN_SECONDS = 10


def measure(bench: Bench, minutes: float) -> Figures:
    cached, fresh = {"different": 1000}, bench.photos
    kinds = (TextToImage("dual"), TextToImage("cross"), TextToImage("cross", **cached), ImageToText(fresh, "dual"))
    seconds = minutes * 60
    warm_up = min(180.0, seconds / 3)
    with bench.stack("redis", "encoder", "index", "gateway") as stack, Watch(stack.pids) as watch:
        outcome = bench.load(Plan(stack.url("gateway"), InTurn(kinds), seconds, CALLERS))
    point = bench.note({"system": "diptych", "what": "all kinds in turn", "concurrency": CALLERS, **outcome.figures()})
    bins = range(int(seconds) // _BIN_SECONDS)
    answered = [sum(outcome.second[b * _BIN_SECONDS + n] for n in range(_BIN_SECONDS)) / _BIN_SECONDS for b in bins]
    return {
        "points": [point],
        "warm_up_seconds": warm_up,
        "bin_seconds": _BIN_SECONDS,
        "answered_per_second": answered,
        "slopes_mb_per_minute": slopes_per_minute(watch.samples, warm_up),
        "memory": watch.samples[:: max(1, len(watch.samples) // 300)],
    }
