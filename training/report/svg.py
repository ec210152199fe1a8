"""Plots as SVG whose lines and letters can be read on white and on black, byte for byte the same for equal figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

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


@contextmanager
def saved(path: Path, *, width: float, height: float, panels: int) -> Iterator[Sequence[Axes]]:
    """Panels side by side to draw on; the plot is written when the context ends."""
    with mpl.rc_context(_STYLE):
        figure, axes = plt.subplots(1, panels, figsize=(width, height), layout="constrained", squeeze=False)
        yield list(axes[0])
        nothing: dict[str, Any] = {"Date": None, "Creator": f"Matplotlib {mpl.__version__}"}
        figure.savefig(path, metadata=nothing)
        plt.close(figure)
    # Matplotlib leaves blanks at the ends of lines.
    text = path.read_text(encoding="utf-8")
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")
