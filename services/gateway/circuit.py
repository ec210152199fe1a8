"""Nobody waits in turn for a neighbour that has stopped answering (Nygard, Release It!, 2007: the circuit breaker)."""

from __future__ import annotations

import time

FAILURES = 3
PAUSE_SECONDS = 2.0


class Circuit:
    """One kind of call. After :data:`FAILURES` time-outs in a row only one caller each :data:`PAUSE_SECONDS` is let
    through, to see whether there are answers again; the first call that ends in time lets everybody through. A
    connection that is refused ends in time: nobody waits for that.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._try_again = 0.0

    @property
    def is_open(self) -> bool:
        return self._failures >= FAILURES

    def admits(self) -> bool:
        """Whether to make the call."""
        if not self.is_open:
            return True
        now = time.monotonic()
        if now < self._try_again:
            return False
        self._try_again = now + PAUSE_SECONDS
        return True

    def ended(self) -> None:
        """The call ended in time, well or not."""
        self._failures = 0

    def timed_out(self) -> None:
        self._failures += 1
        self._try_again = time.monotonic() + PAUSE_SECONDS
