"""``python -m benchmarks [PART...]``: measure, and write one JSON file a part. ``page`` writes docs/performance.md."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.bench import Bench, Figures
from benchmarks.load import LoadGenerator

BENCH = ("encoder", "infinity", "index", "live", "rerank", "gateway", "replicas", "start")
ALONE = ("overload", "soak", "scale")  # each a program of its own, for they take long
PAGE = "page"
console = Console(markup=False, highlight=False, emoji=False, width=None if sys.stdout.isatty() else 120)


def run(
    parts: Annotated[list[str] | None, typer.Argument(help=f"{', '.join((*BENCH, *ALONE, PAGE))}.")] = None,
    out: Annotated[Path, typer.Option(help="Where the JSON files go.")] = Path("docs/performance"),
    seconds: Annotated[float, typer.Option(min=0.1, help="How long each point is measured.")] = 4.0,
    images: Annotated[int, typer.Option(min=1, help="Photos in the made collection.")] = 8000,
    minutes: Annotated[float, typer.Option(min=0.05, help="How long the soak takes.")] = 15.0,
    items: Annotated[int, typer.Option(min=20_000, help="Vectors that the scale is measured with.")] = 1_000_000,
    kind: Annotated[list[str] | None, typer.Option(help="Of the scale: only these kinds, or usearch.")] = None,
    recall: Annotated[float, typer.Option(min=0.5, max=0.999, help="What the scale's kinds are tuned to.")] = 0.95,
    data: Annotated[Path | None, typer.Option(help="A data set whose photos and captions the scale uses.")] = None,
    work: Annotated[Path | None, typer.Option(help="Where the scale's files go: about 20 GB a million items.")] = None,
    service: Annotated[bool, typer.Option(help="Measure the scale through the index service too.")] = True,
) -> None:
    """Measure the parts (all but overload, soak and scale when none is named)."""
    chosen = parts or list(BENCH)
    if unknown := set(chosen) - {*BENCH, *ALONE, PAGE}:
        raise typer.BadParameter(f"no part is called {', '.join(sorted(unknown))}")
    # Settings of whoever calls are not those that are measured; and a stop must stop what runs.
    for name in [name for name in os.environ if name.startswith("DIPTYCH_")]:
        del os.environ[name]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for part in chosen:
        if part == PAGE:
            from benchmarks.report import write

            write(out, out.with_suffix(".md"))
            console.print(f"wrote {out.with_suffix('.md')}")
        else:
            extra: dict[str, Any] = {"minutes": minutes} if part == "soak" else {}
            if part == "scale":
                extra = {"items": items, "recall": recall, "only": kind or (), "data": data, "service": service}
            _measure(part, out, seconds, images, extra, work)


def _measure(part: str, out: Path, seconds: float, images: int, extra: dict[str, Any], place: Path | None) -> None:
    module = import_module(f"benchmarks.parts.{part}")
    table = Table("system", "what", "callers", "batch", "a second", "p50 ms", "p99 ms", "failures", title=part)
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="diptych-bench-", dir=place) as work,
        LoadGenerator() as load,
        console.status(part) as status,
    ):

        def show(point: Figures) -> None:
            row = _row(point)
            table.add_row(*row)
            status.update(f"{part}: {' '.join(row)}")

        bench = Bench(seconds=seconds, images=images, work=Path(work), load=load, say=status.update, show=show)
        figures = module.measure(bench, **extra)
    console.print(table)
    command = ["python", "-m", "benchmarks", part, "--seconds", f"{seconds:g}"]
    command += ["--images", str(images)] if images != 8000 else []
    for name, value in extra.items():
        command += [f"--{name}", f"{value:g}"] if isinstance(value, int | float) and not isinstance(value, bool) else []
    command += [word for kind in extra.get("only", ()) for word in ("--kind", kind)]
    command += ["--data", "DIR"] if extra.get("data") else []
    command += ["--no-service"] if extra.get("service") is False else []
    found = {
        "command": shlex.join(command),
        "measured": time.strftime("%Y-%m-%d", time.gmtime()),
        "took_seconds": round(time.monotonic() - began, 1),
        "machine": machine.describe(),
        **figures,
    }
    out.mkdir(parents=True, exist_ok=True)
    path = out / (f"scale-{extra['items']}.json" if part == "scale" else f"{part}.json")
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    console.print(f"wrote {path} after {found['took_seconds']:.0f} s")


def _row(point: Figures) -> list[str]:
    what = " ".join([str(point["what"]), str(point.get("model_type", ""))]).strip()
    what += ", cached" if point.get("cached") else ""
    middle, last = point.get("p50_ms", point.get("ms")), point.get("p99_ms")
    failures = sum(point.get("failures", {}).values()) + point.get("refused", 0)
    number: Callable[[Any], str] = lambda value: "" if value is None else f"{value:,.1f}"  # noqa: E731
    counts = [str(point.get(name, "")) for name in ("concurrency", "batch")]
    return [point["system"], what, *counts, *map(number, (point["throughput"], middle, last)), str(failures or "")]


if __name__ == "__main__":
    typer.run(run)
