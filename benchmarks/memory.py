"""How much memory processes hold, as Linux tells it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from benchmarks.statistics import slope

Sample = tuple[float, dict[str, float]]


def megabytes(pid: int | str) -> dict[str, float]:
    """``rss_mb``, resident now, and ``peak_mb``, the most that ever was. Raises OSError for a process that is gone."""
    lines = (Path("/proc") / str(pid) / "status").read_text(encoding="ascii", errors="replace").splitlines()
    kilobytes = {
        key: int(value.split()[0]) for key, _, value in (line.partition(":") for line in lines) if "kB" in value
    }
    return {"rss_mb": round(kilobytes["VmRSS"] / 1024, 1), "peak_mb": round(kilobytes["VmHWM"] / 1024, 1)}


class Watch:
    """Looks at the resident memory of processes once in ``every`` seconds while the context is open."""

    def __init__(self, pids: Mapping[str, int], every: float = 1.0) -> None:
        self._pids = pids
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.samples: list[Sample] = []

    def _look(self) -> None:
        began = time.monotonic()
        while True:
            now = {name: megabytes(pid)["rss_mb"] for name, pid in self._pids.items()}
            self.samples.append((round(time.monotonic() - began, 2), now))
            if self._stop.wait(self._every):
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def slopes_per_minute(samples: list[Sample], after: float) -> dict[str, float]:
    """Megabytes a minute, of each process and of all together, in the samples ``after`` so many seconds."""
    late = [sample for sample in samples if sample[0] >= after]
    times = [time for time, _ in late]
    found = {name: slope(times, [held[name] for _, held in late]) * 60 for name in samples[0][1]}
    found["all"] = slope(times, [sum(held.values()) for _, held in late]) * 60
    return {name: round(value, 3) for name, value in found.items()}
