"""Waiting for something to come true, with a bound that is generous because machines are slow."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_SECONDS = 60.0


def wait_for(happened: Callable[[], bool], what: str, evidence: Callable[[], str] = str) -> None:
    """Return as soon as ``happened()``. Raises AssertionError, with the evidence, when it never does."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < deadline, f"waited {PATIENCE_SECONDS:g} s for {what}\n{evidence()}"
        time.sleep(0.05)
