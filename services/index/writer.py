"""The one way in which what is served changes: changes that wait at the same time share one write to the disk."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import Counter, Gauge, Histogram

from shared.artifacts import ArtifactError
from shared.collections import IndexDirectory, Library, LibraryReader
from shared.collections.library import Change, FullError
from shared.problems import Problem
from shared.telemetry import log
from shared.watch import VersionWatcher

CHANGES = Counter("diptych_index_changes_total", "Changes of collections that are on the disk.", ["collection"])
COMMIT = Histogram("diptych_index_commit_changes", "Changes that shared one write.", buckets=(1, 2, 4, 8, 16, 32, 64))
LIMIT = Gauge("diptych_index_changes_limit", "Changes that may wait before more are refused.")
WAITING = Gauge("diptych_index_changes_waiting", "Changes that wait to be written.")


@dataclass
class _Waiting:
    name: str
    change: Change
    done: asyncio.Future[int | None]


class Writer:
    """Libraries in ``folder``, one for each name of an index. No more than ``max_waiting`` changes wait, and
    ``max_together`` share a write."""

    def __init__(self, folder: Path, *, max_waiting: int, max_together: int = 64) -> None:
        self._folder = folder
        self._max_waiting = max_waiting
        self._max_together = max_together
        self._libraries: dict[str, Library] = {}
        self._opening = threading.Lock()
        self._open: weakref.WeakSet[IndexDirectory] = weakref.WeakSet()
        self._queue: list[_Waiting] = []
        self._arrived = asyncio.Event()
        self._closing = False
        WAITING.set_function(lambda: len(self._queue))
        LIMIT.set(max_waiting)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write while the context is open; on the way out, finish what was accepted."""
        worker = asyncio.create_task(self._run())
        try:
            yield
        finally:
            self._closing = True
            self._arrived.set()
            await worker
            for library in self._libraries.values():
                library.close()

    def reader(self, name: str) -> LibraryReader:
        return LibraryReader(self._folder / name)

    def follow(self, index: IndexDirectory) -> None:
        """From now on the index takes in every change as soon as it is on the disk, those before this call included."""
        self._open.add(index)
        index.refresh()

    def library(self, name: str) -> Library:
        """Opened for writing on the first call. Raises :class:`Problem` when it cannot be."""
        with self._opening:
            if name not in self._libraries:
                try:
                    self._libraries[name] = Library(self._folder / name)
                except ArtifactError as error:
                    raise Problem("read-only", str(error), retry_after=10) from error
            return self._libraries[name]

    async def submit(self, name: str, change: Change) -> int | None:
        """The number of the change, once it is on the disk and can be searched; None when there was nothing to change.

        Raises :class:`Problem`: nothing was changed, unless it is ``internal-error``, or
        ``neighbour-unavailable``: then it is on the disk, and can be searched once the engine of the index is back. Who
        stops waiting does not stop the change.
        """
        if self._closing:
            raise Problem("not-ready", "the service is stopping", retry_after=1)
        if len(self._queue) >= self._max_waiting:
            raise Problem("overloaded", f"{len(self._queue)} changes wait to be written; try again", retry_after=1)
        waiting = _Waiting(name, change, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._arrived.set()
        return await asyncio.shield(waiting.done)

    async def _run(self) -> None:
        while self._queue or not self._closing:
            self._arrived.clear()
            if not self._queue:
                await self._arrived.wait()
                continue
            name = self._queue[0].name
            together = [one for one in self._queue if one.name == name][: self._max_together]
            taken = {id(one) for one in together}
            self._queue = [one for one in self._queue if id(one) not in taken]
            COMMIT.observe(len(together))
            try:
                numbers = await asyncio.to_thread(self._commit, name, [one.change for one in together])
            except ArtifactError as error:
                for one in together:
                    one.done.set_exception(refusal(error))
            except Problem as problem:
                for one in together:
                    one.done.set_exception(problem)
            except Exception as error:  # the worker must go on
                for one in together:
                    one.done.set_exception(error)
            else:
                CHANGES.labels(name).inc(sum(number is not None for number in numbers))
                for one, number in zip(together, numbers, strict=True):
                    one.done.set_result(number)
            for one in together:  # whoever waited may have gone; asyncio need not warn of that
                with suppress(Exception):
                    one.done.exception()

    def _commit(self, name: str, changes: list[Change]) -> list[int | None]:
        following = [index for index in list(self._open) if index.manifest.name == name]
        numbers = self.library(name).commit(changes, after=max(index.manifest.library_seq for index in following))
        try:
            for index in following:
                index.refresh()
        except ArtifactError as error:
            detail = f"the change is stored, but cannot be searched yet: {error}"
            raise Problem("neighbour-unavailable", detail, retry_after=5) from error
        return numbers


async def keep_up(watcher: VersionWatcher[IndexDirectory], poll_seconds: float) -> None:
    """Take in, until cancelled, what an index's engine was away for, or another service has put into its library."""
    while True:
        await asyncio.sleep(poll_seconds)
        for index in list(watcher.loaded.values()):
            try:
                await asyncio.to_thread(index.refresh)
            except Exception as error:  # it must go on, and searches say what is wrong
                log.warning("news not taken in", version=index.manifest.ref, error=str(error))


def refusal(error: ArtifactError) -> Problem:
    if isinstance(error, FullError):
        return Problem("storage-full", f"{error}: make room; what was stored before is safe and is being served")
    return Problem("read-only", str(error), retry_after=10)
