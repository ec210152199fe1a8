"""The page's plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.report.files import Figures
from training.report.svg import BLUE, GRAY, GREEN, ORANGE, saved

_SYSTEMS = (
    ("diptych", True, "Diptych, cached", GREEN),
    ("diptych", False, "Diptych", BLUE),
    ("one process", False, "one process, no services", ORANGE),
    ("seed's design", False, "seed's design", GRAY),
)


def gateway(path: Path, points: Sequence[Figures]) -> None:
    """Answers a second against callers, a panel for each direction and model."""
    panels = [(what, model) for what in ("text to image", "image to text") for model in ("dual", "cross")]
    with saved(path, width=11, height=3.2, panels=4) as axes:
        for panel, (what, model) in zip(axes, panels, strict=True):
            drawn = []
            for system, cached, label, colour in _SYSTEMS:
                about = {"system": system, "cached": cached, "what": what, "model_type": model}
                line = [p for p in points if p["throughput"] and about.items() <= p.items()]
                values = [p["throughput"] for p in line]
                panel.plot([p["concurrency"] for p in line], values, "o-", color=colour, label=label, markersize=4)
                drawn += values
            panel.set(title=f"{what}, {model}", xlabel="callers", xscale="log", xlim=(0.8, 80))
            panel.set_yscale("log" if drawn else "linear")
            panel.set_xticks([1, 16, 64], ["1", "16", "64"])
            panel.minorticks_off()
        axes[0].set_ylabel("answers a second")
        axes[0].legend(loc="best", fontsize=8)


def batches(path: Path, points: Sequence[Figures]) -> None:
    """What the bare engine gains by batches, and what the encoder makes of it."""
    with saved(path, width=8.4, height=3.2, panels=2) as axes:
        for panel, (title, bare, served) in zip(
            axes, (("images", "image", "image file"), ("texts", "text", "text")), strict=True
        ):
            line = [p for p in points if p["system"] == "bare engine" and p["what"] == bare]
            values = [p["throughput"] for p in line]
            panel.plot([p["batch"] for p in line], values, "s-", color=ORANGE, label="bare engine, by batch")
            line = [p for p in points if p["system"] == "encoder" and p["what"] == served]
            values = [p["throughput"] for p in line]
            panel.plot([p["concurrency"] for p in line], values, "o-", color=BLUE, label="over HTTP, by callers")
            panel.set(title=title, xlabel="batch, or callers", xscale="log", xlim=(0.8, 80), ylim=(0, None))
            panel.set_xticks([1, 4, 16, 64], ["1", "4", "16", "64"])
            panel.minorticks_off()
        axes[0].set_ylabel("a second")
        axes[1].legend(loc="best", fontsize=9)


def overload(path: Path, found: Sequence[Figures]) -> None:
    """Answers in each second of the overload, as a share of the peak."""
    with saved(path, width=8.4, height=3.2, panels=1) as (panel,):
        for one, colour in zip(found, (BLUE, ORANGE, GREEN), strict=False):
            shares = [count / one["peak"]["throughput"] for count in one["seconds"]]
            panel.plot(range(len(shares)), shares, color=colour, label=one["what"], linewidth=1.2)
        panel.axhline(0.9, color=GRAY, linewidth=1, linestyle="--")
        panel.set(xlabel="second of the overload", ylabel="answered, of the peak", ylim=(0, None))
        panel.legend(loc="lower right", fontsize=9)


def soak(path: Path, found: Figures) -> None:
    """Memory of each process over time."""
    with saved(path, width=8.4, height=3.2, panels=1) as (panel,):
        minutes = [time / 60 for time, _ in found["memory"]]
        for name, colour in zip(found["memory"][0][1], (GRAY, BLUE, ORANGE, GREEN), strict=False):
            panel.plot(minutes, [held[name] for _, held in found["memory"]], color=colour, label=name)
        panel.axvline(found["warm_up_seconds"] / 60, color=GRAY, linewidth=1, linestyle="--")
        panel.set(xlabel="minutes", ylabel="resident MB", ylim=(0, None))
        panel.legend(loc="best", fontsize=9)


def scale(path: Path, points: Sequence[Figures], target: float) -> None:
    """Recall against throughput, a mark for each kind and system."""
    colours = {"diptych": BLUE, "raw FAISS": ORANGE, "usearch": GREEN}
    with saved(path, width=8.4, height=3.6, panels=1) as (panel,):
        for system, colour in colours.items():
            own = [point for point in points if point["system"] == system]
            values = [point["throughput"] for point in own]
            panel.plot(values, [point["recall_at_10"] for point in own], "o", color=colour, label=system)
            for point in own:
                at = (point["throughput"], point["recall_at_10"])
                panel.annotate(point["what"], at, xytext=(4, 4), textcoords="offset points", fontsize=8, color=colour)
        panel.axhline(target, color=GRAY, linewidth=1, linestyle="--")
        panel.set(xlabel="queries a second", ylabel="recall at 10", xscale="log")
        panel.legend(loc="lower left", fontsize=9)
