"""What was set out to be reached, and what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.report.files import Figures, Files, best, find

SCALE = "scale-"  # and the number of items
_DUAL = {"what": "text to image", "model_type": "dual"}


@dataclass(frozen=True)
class Goal:
    """``reached`` is what was measured, in words; ``met`` whether it is enough."""

    wanted: str
    reached: str
    met: bool
    file: str


def goals(files: Files) -> list[Goal]:
    """As far as there are files to tell."""
    makers: dict[str, Callable[[Figures], Iterator[Goal]]] = {
        "encoder": _encoder,
        "infinity": _infinity,
        "gateway": _gateway,
        "rerank": _rerank,
        "replicas": _replicas,
        "index": _index,
        "live": _live,
        "overload": _overload,
        "soak": _soak,
        "chaos": _chaos,
    }
    found = [goal for name, make in makers.items() if name in files for goal in make(files[name])]
    sizes = {known["items"]: known for name, known in files.items() if name.startswith(SCALE)}
    return [*found, *(_scale(sizes[max(sizes)]) if sizes else ())]


def _ratio(wanted: str, ours: Figures | None, theirs: Figures | None, least: float, file: str) -> Iterator[Goal]:
    if ours and theirs:
        ratio = ours["throughput"] / theirs["throughput"]
        figures = f"{ours['throughput']:,.0f} / {theirs['throughput']:,.0f}"
        yield Goal(wanted, f"{ratio:.2f} ({figures} a second)", ratio >= least, file)


def _encoder(found: Figures) -> Iterator[Goal]:
    points = found["points"]
    for what, bare, least in (("image file", "image", 0.9), ("text", "text", 0.8)):
        ours = find(points, system="encoder", what=what, concurrency=64)
        wanted = f"{bare} encoder over HTTP with 64 callers: at least {least} of the bare engine's best batch"
        yield from _ratio(wanted, ours, best(points, system="bare engine", what=bare), least, "encoder")


def _replicas(found: Figures) -> Iterator[Goal]:
    one, two = (find(found["points"], encoders=count) for count in (1, 2))
    yield from _ratio("two encoder replicas: at least 1.8 times the answers of one", two, one, 1.8, "replicas")


def _infinity(found: Figures) -> Iterator[Goal]:
    points = found["points"]
    for callers in sorted({point["concurrency"] for point in points}):
        about = {"what": "text", "batch": 1, "concurrency": callers}
        ours, theirs = find(points, system="encoder", **about), find(points, system="infinity", **about)
        wanted = f"text embedding with {callers} callers: at least 1.5 times infinity"
        yield from _ratio(wanted, ours, theirs, 1.5, "infinity")


def _gateway(found: Figures) -> Iterator[Goal]:
    points = found["points"]
    ours = find(points, system="diptych", cached=False, concurrency=16, **_DUAL)
    alone = find(points, system="one process", concurrency=16, **_DUAL)
    wanted = "text to image, dual, uncached, 16 callers: at least 0.7 of one process"
    yield from _ratio(wanted, ours, alone, 0.7, "gateway")
    if cached := best(points, system="diptych", cached=True, **_DUAL):
        reached = f"{cached['throughput']:,.0f} a second with {cached['concurrency']} callers"
        yield Goal("cached: at least 2,000 answers a second", reached, cached["throughput"] >= 2000, "gateway")
    if ours:
        ratio = ours["p99_ms"] / ours["p50_ms"]
        reached = f"{ratio:.1f} times ({ours['p99_ms']:.0f} / {ours['p50_ms']:.0f} ms)"
        yield Goal("the same, 99th percentile: at most 5 times the median", reached, ratio <= 5, "gateway")


def added_ms(found: Figures) -> float | None:
    """What reranking adds to the median of one caller."""
    medians = {
        model: [p["p50_ms"] for p in found["points"] if p.get("model_type") == model and p["p50_ms"] is not None]
        for model in ("dual", "cross")
    }
    if not all(medians.values()):
        return None
    return float(statistics.mean(medians["cross"]) - statistics.mean(medians["dual"]))


def _rerank(found: Figures) -> Iterator[Goal]:
    n, alone = found["candidates"], found["bare_engine"]
    if (added := added_ms(found)) is not None:
        yield Goal(f"reranking {n} adds at most 25 ms to the median", f"{added:.1f} ms", added <= 25, "rerank")
    ratio = alone["embed_again_ms"] / alone["rerank_ms"]
    reached = f"{ratio:.0f} times ({alone['embed_again_ms']:,.0f} / {alone['rerank_ms']:.1f} ms)"
    yield Goal(f"reranking {n}: at least 20 times as fast as embedding them again", reached, ratio >= 20, "rerank")


def _against_faiss(points: list[Figures], file: str, items: str) -> Iterator[Goal]:
    for batch in sorted({point["batch"] for point in points}):
        ours, theirs = best(points, system="index", batch=batch), find(points, system="raw FAISS", batch=batch)
        wanted = f"index with {items} items, {batch} queries a request: at least 0.8 of raw FAISS"
        yield from _ratio(wanted, ours, theirs, 0.8, file)


def _index(found: Figures) -> Iterator[Goal]:
    yield from _against_faiss(found["points"], "index", f"{found['points'][0]['items']:,}")


def _live(found: Figures) -> Iterator[Goal]:
    faults = found["add_failures"] + found["search_failures"]
    reached = f"{found['added']:,} added, {found['searches_meanwhile']:,} searches, {faults} errors"
    yield Goal(
        "100,000 photos added while searched, no error", reached, found["added"] >= 100_000 and not faults, "live"
    )
    recall = found["recall_at_10"]
    yield Goal("then recall at 10 against exact search: 1.0", f"{recall:.4f}", recall == 1, "live")
    yield from _against_faiss(found["points"], "live", f"{found['items']:,}")


def _scale(found: Figures) -> Iterator[Goal]:
    if served := found.get("service"):
        median, recall = served["p50_ms"], served["recall_at_10"]
        wanted = f"{found['items']:,} items through the index service: median under 5 ms, recall at 10 of at least 0.95"
        reached, file = f"{median:.2f} ms, {recall:.3f} ({served['what']})", f"{SCALE}{found['items']}"
        yield Goal(wanted, reached, median < 5 and recall >= 0.95, file)


def _overload(found: Figures) -> Iterator[Goal]:
    for one in found["overloads"]:
        share, failures = one["goodput_of_peak"] or 0.0, one["overload"]["failures"]
        title = f"overload, {one['what']}"
        yield Goal(f"{title}: goodput above 0.9 of the peak", f"{share:.2f}", share > 0.9, "overload")
        said = ", ".join(f"{count:,} x {what}" for what, count in failures.items()) or "all of them"
        yield Goal(f"{title}: every refusal well-formed", said, not failures, "overload")
        growth = one["slopes_mb_per_minute"]["all"]
        yield Goal(f"{title}: memory flat", f"{growth:+.1f} MB a minute", growth < 5, "overload")


def _soak(found: Figures) -> Iterator[Goal]:
    growth = found["slopes_mb_per_minute"]["all"]
    minutes = sum(point["seconds"] for point in found["points"]) / 60
    reached = f"{growth:+.2f} MB a minute over {minutes:.0f} minutes"
    yield Goal("soak at full load: memory grows by less than 1 MB a minute", reached, growth < 1, "soak")


def _chaos(found: Figures) -> Iterator[Goal]:
    lost, phantoms, failed = len(found["lost"]), len(found["phantoms"]), found["failed_starts"]
    yield Goal(
        "500 kills during writes: nothing lost, no phantom, no failed start",
        f"{found['kills']:,} kills, {found['acknowledged']:,} acknowledged changes: {lost} lost, {phantoms} phantoms,"
        f" {failed} failed starts",
        found["kills"] >= 500 and not (lost or phantoms or failed),
        "chaos",
    )
