"""The reference pages of the documentation, written from the code: no name and no default in them is typed by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from diptych.reference import commands, metrics, rest, settings

PAGES: Mapping[str, Callable[[], str]] = {
    "commands.md": commands.page,
    "metrics.md": metrics.page,
    "rest.md": rest.page,
    "settings.md": settings.page,
}

__all__ = ["PAGES", "write"]


def write(folder: Path) -> None:
    """Write all pages into ``folder``. Equal code gives equal pages, byte for byte."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")
