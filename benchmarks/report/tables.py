"""The figures as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.report.files import Figures
from benchmarks.report.goals import Goal
from training.report.markdown import table


def goals(found: Sequence[Goal]) -> str:
    rows = [[goal.wanted, goal.reached, "yes" if goal.met else "**no**"] for goal in found]
    return table(["wanted", "measured", "reached"], rows, left=3)


def points(found: Sequence[Figures], *, each: str = "answers") -> str:
    """Points of load, with what they are about."""
    rows = []
    for point in found:
        what = " ".join(filter(None, [point["what"], point.get("model_type")]))
        counts = [point.get("concurrency", "-"), point.get("batch", "-")]
        middle = [_number(point.get("p50_ms", point.get("ms"))), _number(point.get("p99_ms"))]
        faults = sum(point.get("failures", {}).values()) + point.get("refused", 0)
        cached = ("cached" if point["cached"] else "uncached") if "cached" in point else ""
        rows.append([point["system"], what, cached, *counts, f"{point['throughput']:,.1f}", *middle, faults])
    head = ["", "", "", "callers", "batch", f"{each} a second", "median ms", "99th percentile ms", "failed or refused"]
    return _without_empty(head, rows)


def memory(found: Figures) -> str:
    rows = [
        [name, *(_number(held.get(key)) for key in ("idle_mb", "rss_mb", "peak_mb"))] for name, held in found.items()
    ]
    rows.append(["all", *(_number(_total(found, key)) for key in ("idle_mb", "rss_mb", "peak_mb"))])
    return _without_empty(["process", "MB before load", "MB now", "MB at most"], rows)


def replicas(points: Sequence[Figures]) -> str:
    alone = points[0]["throughput"]
    rows = [
        [
            str(point["encoders"]),
            f"{point['throughput']:,.0f}",
            f"{point['throughput'] / alone:.2f}",
            _number(point["p50_ms"]),
            _number(point["p99_ms"]),
        ]
        for point in points
    ]
    return table(["encoders", "answers a second", "of one's", "median ms", "99th percentile ms"], rows, left=1)


def seconds(found: Figures) -> str:
    rows = [[name, f"{value:.2f}"] for name, value in found["service_seconds"].items()]
    rows.append(["`diptych up` on the gallery, the first time", f"{found['up_first_seconds']:.2f}"])
    rows.append(["the same, once it is indexed", f"{found['up_again_seconds']:.2f}"])
    return table(["from start to ready", "seconds"], rows)


def overloads(found: Sequence[Figures]) -> str:
    rows = [
        [
            one["what"],
            f"{one['peak']['throughput']:,.0f}",
            f"{one['sent_per_second']:,.0f}",
            f"{one['overload']['throughput']:,.0f}",
            f"{one['goodput_of_peak']:.2f}",
            f"{one['overload']['refused']:,}",
            f"{sum(one['overload']['failures'].values()):,}",
            _number(one["overload"]["p99_ms"]),
            f"{one['after']['throughput']:,.0f}",
            f"{one['slopes_mb_per_minute']['all']:+.1f}",
        ]
        for one in found
    ]
    head = ["", "peak a second", "asked", "answered", "of the peak", "refused", "failed", "99th percentile ms"]
    return table([*head, "afterwards", "MB a minute"], rows)


def scale(found: Sequence[Figures]) -> str:
    """Kinds of shard and other indexes of the same vectors."""
    rows = [
        [
            point["system"],
            point["what"],
            f"{point['recall_at_10']:.3f}",
            f"{point['p50_ms']:.2f}",
            f"{point['p99_ms']:.2f}",
            f"{point['throughput']:,.0f}",
            point.get("batch", "-"),
            _number(point["memory"].get("rss_mb")),
            _number(point["memory"].get("anonymous_mb")),
            _number(point.get("disk_mb")),
            _number(point.get("build_seconds")),
        ]
        for point in found
    ]
    head = ["", "", "recall at 10", "median ms", "99th percentile ms", "queries a second", "batch", "resident MB"]
    return _without_empty([*head, "not of files MB", "index MB", "seconds to build"], rows)


def slopes(found: Figures) -> str:
    return table(["process", "MB a minute"], [[name, f"{value:+.2f}"] for name, value in found.items()])


def _total(found: Figures, key: str) -> float | None:
    values = [held[key] for held in found.values() if key in held]
    return sum(values) if values else None


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def _without_empty(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Without the columns that say nothing in any row."""
    kept = [n for n in range(len(head)) if n == 0 or any(row[n] not in ("", "-") for row in rows)]
    left = sum(not head[n] for n in kept) or 1
    return table([head[n] for n in kept], ([row[n] for n in kept] for row in rows), left=left)
