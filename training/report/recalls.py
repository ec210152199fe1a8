"""Recalls and calibration as tables: percentages, text to image (t2i) before image to text (i2t)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from training.report.files import Figures, Results, Seed
from training.report.markdown import number, table

RECALLS = ("r1", "r5", "r10")
WAYS = ("t2i", "i2t")
HEAD = ("t2i R@1", "R@5", "R@10", "i2t R@1", "R@5", "R@10")


def six(found: Figures) -> list[str]:
    """The six recalls."""
    return [f"{found[way][k]:.1f}" for way in WAYS for k in RECALLS]


def recall_sum(found: Figures) -> float:
    """The sum of the six recalls, 0 to 600."""
    return float(sum(found[way][k] for way in WAYS for k in RECALLS))


def seven(found: Figures) -> list[str]:
    """The six recalls and their sum."""
    return [*six(found), f"{recall_sum(found):.1f}"]


def headline(results: Results) -> str:
    rows: list[Sequence[object]] = []
    for model in ("dual", "cross"):
        rows.append([f"**{model}**, shipped", *seven(getattr(results.shipped, model))])
        each = [getattr(seed, model) for seed in results.seeds]
        if len(each) > 1:
            columns = [[found[way][k] for found in each] for way in WAYS for k in RECALLS]
            columns.append([recall_sum(found) for found in each])
            rows.append([f"{model}, mean of {len(each)} seeds", *(f"{sum(c) / len(c):.1f}" for c in columns)])
            rows.append([f"{model}, lowest to highest", *(f"{min(c):.1f} to {max(c):.1f}" for c in columns)])
    return table(["", *HEAD, "sum"], rows)


def seeds(all_seeds: Sequence[Seed]) -> str:
    rows = [
        [seed.number, model, *seven(found), f"{found['expected_calibration_error']:.3f}"]
        for seed in all_seeds
        for model, found in (("dual", seed.dual), ("cross", seed.cross))
    ]
    return table(["seed", "", *HEAD, "sum", "calibration error"], rows, left=2)


def published(rows: Sequence[Figures], shipped: Seed) -> str:
    def cells(found: Mapping[str, float | None]) -> list[str]:
        return [number(found.get(k)) for k in RECALLS]

    ours = [
        ["", f"**Diptych, {model}**", "this page", found["split"], *six(found)]
        for model, found in (("dual", shipped.dual), ("cross", shipped.cross))
    ]
    theirs = [
        [row["group"], row["model"], row["source"], row["split"], *cells(row["t2i"]), *cells(row["i2t"])]
        for row in rows
    ]
    return table(["", "model", "source", "split", *HEAD], ours + theirs, left=4)


def depth(rows: Sequence[Figures]) -> str:
    alone, *reranked = rows
    cells = [["none (dual)", *seven(alone), "-", "-"]]
    for row in reranked:
        gain = f"{recall_sum(row) - recall_sum(alone):+.1f}"
        cells.append([row["depth"], *seven(row), gain, f"{row['milliseconds']:.1f}"])
    return table(["reranked", *HEAD, "sum", "gain", "ms"], cells)


def smaller(shipped: Seed, distilled: Mapping[str, Figures]) -> str:
    """Each model of ``distilled`` under the shipped one, with what both take."""
    rows: list[Sequence[object]] = []
    for model, small in distilled.items():
        for name, found in ((f"{model}, shipped", getattr(shipped, model)), (f"**{model}**, distilled", small)):
            size, time = found.get("bytes"), found.get("photo_milliseconds")
            rows.append([name, *seven(found), number(size and size / 1e6), number(time)])
    return table(["", *HEAD, "sum", "MB", "ms a photo"], rows)


def reliability(dual: Figures, cross: Figures) -> str:
    """Both models' bins, one under the other."""
    rows = [
        [model, f"{row['mean_probability']:.3f}", f"{row['share_of_matches']:.3f}", f"{row['count']:,}"]
        for model, found in (("dual", dual), ("cross", cross))
        for row in found["reliability"]
    ]
    return table(["", "mean probability given", "share of matches", "results"], rows)


def ablations(rows: Sequence[Figures]) -> str:
    parts = []
    for group, of_group in groupby(rows, key=lambda row: row["group"]):
        cells = [
            [
                row["change"],
                row.get("note", ""),
                f"`{row.get('commit') or row.get('command')}`",
                *(number(row.get(figure)) for figure in ("t2i_r1", "i2t_r1", "recall_sum")),
            ]
            for row in of_group
        ]
        head = ["", "note", "from", "t2i R@1", "i2t R@1", "sum of recalls"]
        parts.append(f"**{group}**\n\n{table(head, cells, left=3)}")
    return "\n\n".join(parts)


def side_by_side(found: Figures) -> str:
    """Variants (the values that are objects) as columns, their figures as rows; then what is said of all of them.

    A number is shown as the file has it, with three digits at least.
    """
    variants = {name: dict(_leaves(value)) for name, value in found.items() if isinstance(value, Mapping)}
    keys = list(dict.fromkeys(key for leaves in variants.values() for key in leaves))
    rows = [[key, *(number(leaves.get(key)) for leaves in variants.values())] for key in keys]
    said = [f"{name.replace('_', ' ')}: {number(value)}" for name, value in found.items() if name not in variants]
    said = [sentence for sentence in said if not sentence.startswith(("command:", "title:"))]
    return table(["", *variants], rows) + ("\n\n" + "; ".join(said) + "." if said else "")


def _leaves(value: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, Any]]:
    for name, below in value.items():
        title = f"{above} {name.replace('_', ' ')}".strip()
        if isinstance(below, Mapping):
            yield from _leaves(below, title)
        else:
            yield title, below
