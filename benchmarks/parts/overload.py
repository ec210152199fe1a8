"""Ten times as many requests as can be answered, for a minute: what is still answered, and how the rest is refused."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.bench import Bench, Figures
from benchmarks.load import Plan
from benchmarks.memory import Watch, slopes_per_minute
from benchmarks.questions import ImageToText, Questions, TextToImage

TIMES = 10
SECONDS = 60.0
_PEAK_CALLERS = 64
_WARM_UP = 5.0


def measure(bench: Bench, seconds: float = SECONDS) -> Figures:
    kinds: Mapping[str, Questions] = {
        "text to image, dual": TextToImage("dual"),
        "text to image, cross": TextToImage("cross"),
        "image to text, dual": ImageToText(bench.photos, "dual"),
    }
    found = []
    about: Figures = {"system": "diptych"}
    for what, questions in kinds.items():
        with bench.stack("redis", "encoder", "index", "gateway") as stack:
            url = stack.url("gateway")
            peak = bench.point({**about, "what": f"{what}, peak"}, url, questions, _PEAK_CALLERS)
            rate = TIMES * peak["throughput"]
            with Watch(stack.pids) as watch:
                plan = Plan(url, questions, seconds, rate=rate, warm_up=_WARM_UP)
                outcome = bench.load(plan)
            under = {"system": "diptych", "what": f"{what}, {TIMES} times that", **outcome.figures()}
            bench.note(under)
            after = bench.point({**about, "what": f"{what}, afterwards"}, url, questions, _PEAK_CALLERS)
        found.append(
            {
                "what": what,
                "peak": peak,
                "asked_per_second": round(rate, 1),
                "sent_per_second": round(outcome.sent / outcome.seconds, 1),
                "overload": under,
                "goodput_of_peak": round(outcome.throughput / peak["throughput"], 3) if peak["throughput"] else None,
                "seconds": [outcome.second[n] for n in range(int(outcome.seconds))],
                "after": after,
                "slopes_mb_per_minute": slopes_per_minute(watch.samples, seconds / 3),
                "memory": watch.samples,
            }
        )
    return {"times": TIMES, "overloads": found}
