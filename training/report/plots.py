"""The report's plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training.report.files import Figures
from training.report.recalls import recall_sum
from training.report.svg import BLUE, GRAY, GREEN, ORANGE, saved


def depth(path: Path, rows: Sequence[Figures]) -> None:
    """What reranking gains over the dual encoder, against how many candidates it sees and against its time."""
    alone, *reranked = rows
    gains = {
        "text to image R@1": (BLUE, [row["t2i"]["r1"] - alone["t2i"]["r1"] for row in reranked]),
        "image to text R@1": (ORANGE, [row["i2t"]["r1"] - alone["i2t"]["r1"] for row in reranked]),
        "mean of all six recalls": (GREEN, [(recall_sum(row) - recall_sum(alone)) / 6 for row in reranked]),
    }
    with saved(path, width=8.4, height=3.2, panels=2) as (left, right):
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
    with saved(path, width=4.4, height=3.9, panels=1) as (panel,):
        panel.plot([0, 1], [0, 1], color=GRAY, linewidth=1, linestyle="--")
        for (name, bins), colour in zip(models.items(), (BLUE, ORANGE), strict=True):
            said, seen = [row["mean_probability"] for row in bins], [row["share_of_matches"] for row in bins]
            panel.plot(said, seen, color=colour, label=name, linewidth=1.2)
            panel.scatter(said, seen, [4 + 0.4 * row["count"] ** 0.5 for row in bins], color=colour)
        panel.set(xlabel="probability given", ylabel="share that are matches", xlim=(0, 1), ylim=(0, 1))
        panel.legend(loc="upper left", fontsize=9)
