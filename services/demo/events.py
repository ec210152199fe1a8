"""How the page's events behave: they belong to the page, and are no interface for programs."""

from __future__ import annotations

from typing import Any

# Shows no spinner over what it fills.
PLAIN: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
SEARCH: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal", "trigger_mode": "always_last"}
