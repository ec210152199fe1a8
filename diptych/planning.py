"""What a collection of a given size will take, from what was measured at other sizes.

Every figure that depends on the size is taken from two measured sizes, those next to the wanted one or the largest two:
bytes grow along a straight line, times by a power law. Beyond the largest it is extrapolated, and says so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from shared.collections import kinds
from shared.schemas import ModelType, ShardKind

MEASURED = Path(__file__).resolve().parent.parent / "docs" / "performance"
BUSY = 0.7  # of a core's time: nearer to all of it, requests wait for each other
_DIM = 512
_LARGEST = 1.5  # exponent: nothing grows faster, and a steeper slope between two sizes is noise
Basis = Literal["measured", "interpolated", "extrapolated"]


class PlanError(Exception):
    """No plan can be made. Says what was not measured, and how to measure it."""


@dataclass(frozen=True)
class Wanted:
    """``items`` photos with ``captions`` each; ``qps`` text queries a second at the peak, of which the share ``cached``
    was asked before; ``memory_bytes`` and ``cores`` of one machine; ``recall`` at 10, 0 to 1. ``kind`` None
    means that it is chosen."""

    items: int
    qps: float
    recall: float
    memory_bytes: float
    cores: int = 2
    captions: float = 0.0
    cached: float = 0.0
    model_type: ModelType = "dual"
    kind: ShardKind | None = None


@dataclass(frozen=True)
class Line:
    """One figure of a plan, and what it rests on."""

    what: str
    value: float
    unit: str
    basis: Basis
    because: str


@dataclass(frozen=True)
class Plan:
    kind: ShardKind
    lines: Sequence[Line]
    notes: Sequence[str]

    def value(self, what: str) -> float:
        return next(line.value for line in self.lines if line.what == what)


def plan(wanted: Wanted, folder: Path = MEASURED) -> Plan:
    """Raises :class:`PlanError` when ``folder`` lacks what it rests on."""
    measured = Measured(folder)
    kind = wanted.kind or kinds.choose(wanted.items, _DIM, int(wanted.memory_bytes), wanted.recall)
    memory = measured.line(kind, "memory_mb", wanted.items, "memory of the index", "MB")
    shards = measured.line(kind, "disk_mb", wanted.items, "file of the shards", "MB")
    median = measured.line(kind, "p50_ms", wanted.items, "median of one search", "ms")
    search = measured.line(kind, "search_ms", wanted.items, "", "ms")
    build = measured.line(kind, "build_seconds", wanted.items, "time to make the shards", "s")
    stored = measured.stored
    rows = wanted.items * (stored["photo"] + 4 * _DIM + wanted.captions * (stored["caption"] + 4 * _DIM)) / 1e6
    disk = Line(
        "disk of the index",
        rows + shards.value,
        "MB",
        shards.basis,
        f"{stored['photo'] / 1000:.1f} kB a photo and {stored['caption'] / 1000:.1f} a caption with their tokens, "
        "their vectors once more, and the shards; not the photos themselves",
    )
    rate = measured.rates
    asked = wanted.qps * (1 - wanted.cached)
    reranked = wanted.model_type == "cross"
    encoder = asked / rate["text"] + (asked / rate["rerank"] if reranked else 0.0)
    index = asked * (1 / rate["index"] + max(0.0, search.value - rate["index_ms"]) / 1000)
    cores = [
        _cores(
            "encoder",
            encoder,
            "measured",
            f"{rate['text']:.0f} texts a second and core" + (f", {rate['rerank']:.0f} rerankings" if reranked else ""),
        ),
        _cores("index", index, median.basis, f"{rate['index']:.0f} searches a second and core among few items"),
        _cores("gateway", wanted.qps / rate["gateway"], "measured", f"{rate['gateway']:.0f} answers a second and core"),
    ]
    replicas = [
        Line(
            f"replicas of the {name}",
            max(1, math.ceil(line.value / wanted.cores)),
            f"with {wanted.cores} cores",
            line.basis,
            "each holds the whole index" if name == "index" else "",
        )
        for name, line in zip(("encoder", "index", "gateway"), cores, strict=True)
    ]
    lines = [memory, disk, median, build, *cores, *replicas]
    return Plan(kind, lines, _notes(wanted, measured, kind, lines))


def _cores(name: str, busy: float, basis: Basis, because: str) -> Line:
    return Line(f"cores for the {name}", busy / BUSY, "cores", basis, f"{because}, {BUSY:.0%} busy")


def _notes(wanted: Wanted, measured: Measured, kind: ShardKind, lines: Sequence[Line]) -> list[str]:
    notes = []
    largest = max(measured.sizes(kind))
    if wanted.items > largest:
        notes.append(
            f"{kind} was measured with up to {largest:,} items: all that is marked extrapolated was not seen at "
            f"{wanted.items / largest:.3g} times as many"
        )
    memory = lines[0].value * 1e6
    if memory > wanted.memory_bytes:
        notes.append(
            f"one machine's {wanted.memory_bytes / 1e9:.1f} GB do not hold it: give it more, or move the index to "
            f"Milvus (diptych index migrate) on about {math.ceil(memory / wanted.memory_bytes)} such machines"
        )
    if wanted.recall > measured.target:
        notes.append(
            f"kinds were measured at a recall of {measured.target:g}: at {wanted.recall:g} a search takes longer"
        )
    busiest = max(lines[4:7], key=lambda line: line.value)
    notes.append(f"what costs most: {busiest.value:.1f} {busiest.what}, {lines[1].value / 1e3:,.0f} GB of disk")
    return notes


class Measured:
    """The result files of ``make bench`` and ``make bench-scale`` in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, dict[str, Any]] = {}

    @cached_property
    def _scales(self) -> list[dict[str, Any]]:
        found = [self._read(path.stem) for path in sorted(self._folder.glob("scale-*.json"))]
        if len(found) < 2:
            raise PlanError(
                f"{self._folder} has {len(found)} files scale-ITEMS.json, and it takes two sizes to tell how anything "
                "grows: make bench-scale ITEMS=100000, and another"
            )
        return found

    @property
    def target(self) -> float:
        """The recall that kinds were tuned to."""
        return float(min(found["target"] for found in self._scales))

    def sizes(self, kind: ShardKind) -> dict[int, dict[str, float]]:
        """What was measured of a kind, by number of items: through the index service where it was."""
        found: dict[int, dict[str, float]] = {}
        for system in ("diptych", "index service"):
            for scale in self._scales:
                for point in scale["points"]:
                    if point["system"] == system and point["what"] == kind:
                        known = found.setdefault(scale["items"], {"disk_mb": 0.0, "build_seconds": 0.0})
                        known |= {name: point[name] for name in ("p50_ms", "disk_mb", "build_seconds") if name in point}
                        known["memory_mb"] = point["memory"]["rss_mb"]
                        known.setdefault("search_ms", point["p50_ms"])  # without HTTP, where that was measured
        if len(found) < 2:
            wanted = f"--kind {kind} --items N"
            raise PlanError(
                f"{kind} was measured with {len(found)} sizes, two are needed: python -m benchmarks scale {wanted}"
            )
        return found

    def line(self, kind: ShardKind, figure: str, items: int, what: str, unit: str) -> Line:
        found = self.sizes(kind)
        values = {size: known[figure] for size, known in found.items()}
        value, basis = at(values, items, straight=unit == "MB")
        return Line(what, value, unit, basis, f"{kind} at {' and '.join(f'{size:,}' for size in sorted(found))} items")

    @cached_property
    def stored(self) -> Mapping[str, float]:
        """Bytes of a photo and of a caption in the item store, tokens included."""
        found: dict[str, float] = self._figures("index", "stored_bytes")
        return found

    @cached_property
    def rates(self) -> Mapping[str, float]:
        """What one core does in a second, and how long the search takes that the index's rate includes."""

        def best(name: str, **about: object) -> float:
            points = [p for p in self._figures(name, "points") if about.items() <= p.items()]
            if not points:
                raise PlanError(f"{self._folder / name}.json does not say what is needed: make bench PARTS={name}")
            cores: int = self._read(name)["machine"]["cores"]
            return float(max(point["throughput"] for point in points)) / cores

        return {
            "text": best("encoder", system="encoder", what="text"),
            "rerank": best("rerank", system="encoder"),
            "gateway": best("gateway", system="diptych", what="text to image", cached=True),
            "index": best("index", system="index", batch=1),
            "index_ms": 1000 / (best("index", system="raw FAISS", batch=1) * self._read("index")["machine"]["cores"]),
        }

    def _figures(self, name: str, figure: str) -> Any:
        found = self._read(name)
        if figure not in found:
            raise PlanError(f"{self._folder / name}.json has no {figure}: make bench PARTS={name}")
        return found[figure]

    def _read(self, name: str) -> dict[str, Any]:
        if name not in self._files:
            path = self._folder / f"{name}.json"
            try:
                self._files[name] = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise PlanError(f"{path} cannot be read ({error}): make bench PARTS={name}") from error
        return self._files[name]


def at(known: Mapping[int, float], size: int, *, straight: bool) -> tuple[float, Basis]:
    """The value at ``size``, of values at two sizes or more: on a ``straight`` line through two of them, or on a power
    law."""
    sizes = sorted(known)
    if size in known:
        return known[size], "measured"
    basis: Basis = "interpolated" if sizes[0] < size < sizes[-1] else "extrapolated"
    above = next((n for n, one in enumerate(sizes) if one > size), len(sizes) - 1)
    low, high = sizes[max(0, above - 1)], sizes[max(1, above)]
    first, last = known[low], known[high]
    if straight or first <= 0:
        return max(0.0, last + (last - first) * (size - high) / (high - low)), basis
    power = min(max(math.log(last / first) / math.log(high / low), 0.0), _LARGEST)
    return last * (size / high) ** power, basis
