"""The report's plots, as SVG whose lines and letters can be read on white and on black."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from training.report.files import Figures
from training.report.recalls import recall_sum

GRAY, BLUE, ORANGE, GREEN = "#7d8590", "#3987e5", "#d9730d", "#2e9e5b"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # letters stay letters
    "svg.hashsalt": "diptych",  # equal figures make equal files
    "font.family": "sans-serif",
    "font.size": 10,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"), GRAY
    ),
}


def depth(path: Path, rows: Sequence[Figures]) -> None:
    """What reranking gains over the dual encoder, against how many candidates it sees and against its time."""
    alone, *reranked = rows
    gains = {
        "text to image R@1": (BLUE, [row["t2i"]["r1"] - alone["t2i"]["r1"] for row in reranked]),
        "image to text R@1": (ORANGE, [row["i2t"]["r1"] - alone["i2t"]["r1"] for row in reranked]),
        "mean of all six recalls": (GREEN, [(recall_sum(row) - recall_sum(alone)) / 6 for row in reranked]),
    }
    with _saved(path, width=8.4, height=3.2, panels=2) as (left, right):
        for panel, over, label in (
            (left, "depth", "candidates reranked (k)"),
            (right, "milliseconds", "median ms to rerank one query's k"),
        ):
            for (name, (colour, gain)), mark in zip(gains.items(), "os^", strict=True):
                panel.plot([row[over] for row in reranked], gain, f"{mark}-", color=colour, label=name, markersize=5)
            panel.axhline(0, color=GRAY, linewidth=1)
            panel.set_xlabel(label)
        left.set_ylabel("gain in points")
        right.sharey(left)
        left.legend(loc="best", fontsize=9)


def reliability(path: Path, models: dict[str, Sequence[Figures]]) -> None:
    """Said against seen: how many of the results that are given about one probability are matches."""
    with _saved(path, width=4.4, height=3.9, panels=1) as (panel,):
        panel.plot([0, 1], [0, 1], color=GRAY, linewidth=1, linestyle="--")
        for (name, bins), colour in zip(models.items(), (BLUE, ORANGE), strict=True):
            said, seen = [row["mean_probability"] for row in bins], [row["share_of_matches"] for row in bins]
            panel.plot(said, seen, color=colour, label=name, linewidth=1.2)
            panel.scatter(said, seen, [4 + 0.4 * row["count"] ** 0.5 for row in bins], color=colour)
        panel.set(xlabel="probability given", ylabel="share that are matches", xlim=(0, 1), ylim=(0, 1))
        panel.legend(loc="upper left", fontsize=9)


@contextmanager
def _saved(path: Path, *, width: float, height: float, panels: int) -> Iterator[Sequence[Axes]]:
    with mpl.rc_context(_STYLE):
        figure, axes = plt.subplots(1, panels, figsize=(width, height), layout="constrained", squeeze=False)
        yield list(axes[0])
        nothing: dict[str, Any] = {"Date": None, "Creator": f"Matplotlib {mpl.__version__}"}
        figure.savefig(path, metadata=nothing)
        plt.close(figure)
    # Matplotlib leaves blanks at the ends of lines.
    text = path.read_text(encoding="utf-8")
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")
