"""Outlives the supervisor by a moment: when the pipe from it closes, whatever it left running is stopped.

The supervisor's end of the pipe closes however it dies, ``kill -9`` included, and so no service and no file of a run
can stay behind. This file is run by its path, alone; it imports nothing of ours.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

_PATIENCE_SECONDS = 10.0


class Guard:
    """The supervisor's side. Every process it watches leads a process group of its own.

    ``leftovers`` (files or folders) are removed at the end. ``lock`` is a file descriptor that the guard holds open
    until then, so that a lock on it covers the cleaning up.
    """

    def __init__(self, leftovers: list[Path], lock: int) -> None:
        command = [sys.executable, "-I", "-S", __file__, *map(str, leftovers)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, pass_fds=[lock], start_new_session=True, bufsize=0
        )

    def watch(self, group: int) -> None:
        self._tell(f"+{group}\n")

    def forget(self, group: int) -> None:
        self._tell(f"-{group}\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # somebody killed the guard; the supervisor still stops what it started
            self._process.stdin.write(line.encode())


def _signal(groups: set[int], number: int) -> set[int]:
    """Send a signal to the groups; returns those that are still there (signal 0 only asks)."""
    there = set()
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
            there.add(group)
    return there


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        change = groups.add if line[0] == "+" else groups.discard
        change(int(line[1:]))
    groups = _signal(groups, signal.SIGTERM)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while groups and time.monotonic() < deadline:
        time.sleep(0.05)
        groups = _signal(groups, 0)
    _signal(groups, signal.SIGKILL)
    for name in sys.argv[1:]:
        path = Path(name)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
