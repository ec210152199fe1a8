"""The result files of the page: every one of them says how and on what it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Figures = Mapping[str, Any]
Files = Mapping[str, Figures]


class ReportError(Exception):
    """The page cannot be written. Says which file does not fit, and what to do."""


def load(folder: Path) -> dict[str, Figures]:
    """All JSON files of ``folder`` by name. Raises :class:`ReportError`."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ReportError(f"{path} cannot be read ({error}): measure again (make bench)") from error
        for origin in ("command", "machine", "measured"):
            if not isinstance(document, dict) or not document.get(origin):
                raise ReportError(f"{path} has no {origin}: measure again (make bench)")
        found[path.stem] = document
    if not found:
        raise ReportError(f"{folder} holds no result files: make bench writes them")
    return found


def find(points: Sequence[Figures], **about: object) -> Figures | None:
    """The last point that is about this."""
    fitting = [point for point in points if all(point.get(key) == value for key, value in about.items())]
    return fitting[-1] if fitting else None


def best(points: Sequence[Figures], **about: object) -> Figures | None:
    """The point about this with the highest throughput."""
    fitting = [point for point in points if all(point.get(key) == value for key, value in about.items())]
    return max(fitting, key=lambda point: float(point["throughput"]), default=None)
