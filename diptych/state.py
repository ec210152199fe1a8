"""The state directory of ``diptych up``: what stays between runs, and what belongs to one run only."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_CLEANING_SECONDS = 15.0


class StateInUseError(Exception):
    """Another ``diptych up`` works on this state directory."""


@dataclass(frozen=True)
class StateDirectory:
    """``store/``, ``gallery/``, ``work/`` and ``logs/`` stay; ``run/`` and the lock are removed when a run ends."""

    root: Path

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def gallery(self) -> Path:
        return self.root / "gallery"

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def temporary(self) -> Path:
        """Where the services put their temporary files."""
        return self.run / "tmp"

    @property
    def lock(self) -> Path:
        return self.root / "up.lock"

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Hold the lock, with an empty ``run/`` and ``logs/``; gives the lock's file descriptor, to be passed on.

        Raises :class:`StateInUseError` when somebody else has it.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        descriptor = self._acquire()
        try:
            for folder in (self.run, self.logs):
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
            self.temporary.mkdir()
            yield descriptor
        finally:
            os.close(descriptor)

    def _acquire(self) -> int:
        deadline = time.monotonic() + _CLEANING_SECONDS
        while True:
            descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_lock(descriptor):
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, f"{os.getpid()}\n".encode())
                    return descriptor
            except BlockingIOError:
                holder = os.read(descriptor, 32).decode().strip()
                # A holder that is no more leaves the lock to its guard, which needs a moment to clean up.
                if _is_alive(holder) or time.monotonic() > deadline:
                    os.close(descriptor)
                    raise StateInUseError(
                        f"another `diptych up` (process {holder or 'unknown'}) works in {self.root}. Stop it first, or "
                        "give this one a directory of its own with --state"
                    ) from None
            os.close(descriptor)
            time.sleep(0.1)

    def _is_lock(self, descriptor: int) -> bool:
        """Whether the locked file still is the one by that name: whoever held it before removes it."""
        try:
            return os.path.samestat(os.fstat(descriptor), self.lock.stat())
        except FileNotFoundError:
            return False


def _is_alive(pid: str) -> bool:
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
