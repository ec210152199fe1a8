"""Markdown tables and numbers in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def table(head: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> str:
    """Rows as a Markdown table whose first ``left`` columns are words, the others numbers."""
    marks = [":--" if n < left else "--:" for n in range(len(head))]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (head, marks, *rows))


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def number(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
