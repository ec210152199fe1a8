"""Tables of words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

WRITTEN = "<!-- Written by `make reference` from the code; a test compares. Change the code, not this page. -->"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows as a Markdown table. A line break or a bar in a cell stays inside the cell."""
    marks = [":--"] * len(head)
    lines = ([" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in (head, marks, *rows))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def code(text: str) -> str:
    return f"`{text}`"


def document(title: str, *blocks: str) -> str:
    return "\n\n".join((f"# {title}", WRITTEN, *(block.strip() for block in blocks if block.strip()))) + "\n"
