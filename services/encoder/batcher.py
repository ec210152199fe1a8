"""Micro-batching: requests that wait at the same time share one model call."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from prometheus_client import Counter, Gauge, Histogram

from shared.problems import Problem

Item = TypeVar("Item")
Result = TypeVar("Result")

BATCH = Histogram("diptych_encoder_batch_size", "Items in one model call.", ["lane"], buckets=(1, 2, 4, 8, 16, 32, 64))
MODEL = Histogram(
    "diptych_encoder_model_seconds",
    "Time of one model call.",
    ["lane"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)
WAITING = Gauge("diptych_encoder_queue_items", "Items waiting for a model call.", ["lane"])
LIMIT = Gauge("diptych_encoder_queue_limit_items", "Items that may wait before more are refused.", ["lane"])
REFUSED = Counter("diptych_encoder_refused_total", "Items refused because the lane was full.", ["lane"])
LATE = Counter("diptych_encoder_late_total", "Items dropped because their caller's time was up.", ["lane"])

# What may share a call with the oldest item: up to a third longer or a quarter shorter. All are padded to the longest.
_SHORTEST, _LONGEST = 3 / 4, 4 / 3


@dataclass
class _Waiting(Generic[Item, Result]):
    item: Item
    group: object
    since: float
    until: float
    answer: asyncio.Future[Result]


class Batcher(Generic[Item, Result]):
    """One lane: a bounded queue, and ``workers`` threads that take what has gathered while they were busy.

    ``work(group, items)`` runs in a thread and returns one result an item. Only items of the same ``group`` (a model
    version) and, where there is a ``length``, of about the same length share a call: the oldest one's. A free worker
    starts at once, or when the oldest item has waited ``max_delay`` seconds for ``max_batch`` to come together. An item
    whose caller has gone, or whose deadline has passed, is dropped before it costs anything, and an item that fails
    does not fail its companions.
    """

    def __init__(
        self,
        lane: str,
        work: Callable[[object, list[Item]], Sequence[Result]],
        *,
        max_batch: int,
        max_delay: float,
        max_queue: int,
        workers: int = 1,
        length: Callable[[Item], int] | None = None,
    ) -> None:
        self._lane = lane
        self._work = work
        self._max_batch = max_batch
        self._max_delay = max_delay
        self._max_queue = max_queue
        self._queue: deque[_Waiting[Item, Result]] = deque()
        self._arrived = asyncio.Event()
        self._closing = False
        self._length = length
        self._free = asyncio.Semaphore(workers)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix=f"lane-{lane}")
        self._late = LATE.labels(lane)
        self._sizes, self._seconds = BATCH.labels(lane), MODEL.labels(lane)
        WAITING.labels(lane).set_function(lambda: len(self._queue))
        LIMIT.labels(lane).set(max_queue)
        REFUSED.labels(lane)  # known from the start, as 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Work while the context is open; on the way out, finish what was accepted."""
        worker = asyncio.create_task(self._run())
        try:
            yield
        finally:
            self._closing = True
            self._arrived.set()
            await worker
            self._threads.shutdown()

    async def submit(self, group: object, items: Sequence[Item], until: float = math.inf) -> list[Result]:
        """Results in the order of ``items``; the first error when there is one. ``until`` is their deadline, a time of
        the event loop's clock.

        Raises :class:`Problem` ``overloaded`` when the items do not fit the queue, ``deadline-exceeded`` when no worker
        came to one of them in time, ``not-ready`` after closing.
        """
        if self._closing:
            raise Problem("not-ready", "the service is stopping", retry_after=1)
        if len(self._queue) + len(items) > self._max_queue:
            REFUSED.labels(self._lane).inc(len(items))
            raise Problem(
                "overloaded",
                f"{len(self._queue)} items wait for the {self._lane} lane already; try again",
                retry_after=1,
            )
        loop = asyncio.get_running_loop()
        waiting = [_Waiting[Item, Result](item, group, loop.time(), until, loop.create_future()) for item in items]
        self._queue.extend(waiting)
        self._arrived.set()
        try:
            return await asyncio.gather(*(one.answer for one in waiting))
        except BaseException:  # the caller has gone, or one of its items failed: the others are not wanted any more
            for one in waiting:
                one.answer.cancel()
            self._queue = deque(one for one in self._queue if not one.answer.done())
            raise

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as calls:
            while self._queue or not self._closing:
                self._arrived.clear()
                if not self._queue:
                    await self._arrived.wait()
                elif (seconds := self._seconds_to_join()) > 0:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._arrived.wait(), seconds)
                else:
                    await self._free.acquire()
                    if batch := self._take():
                        calls.create_task(self._answer(batch)).add_done_callback(lambda _: self._free.release())
                    else:
                        self._free.release()

    def _seconds_to_join(self) -> float:
        """How long others may still join the oldest item's call."""
        if self._closing or len(self._queue) >= self._max_batch:
            return 0
        return self._queue[0].since + self._max_delay - asyncio.get_running_loop().time()

    def _take(self) -> list[_Waiting[Item, Result]]:
        """The oldest item, and those that may share its call, in order of arrival."""
        now = asyncio.get_running_loop().time()
        batch: list[_Waiting[Item, Result]] = []
        kept: deque[_Waiting[Item, Result]] = deque()
        while self._queue and len(batch) < self._max_batch:
            one = self._queue.popleft()
            if one.answer.done():
                continue
            if one.until <= now:
                self._late.inc()
                one.answer.set_exception(too_late())
                continue
            (batch if not batch or self._fits(one, batch[0]) else kept).append(one)
        self._queue.extendleft(reversed(kept))
        return batch

    def _fits(self, one: _Waiting[Item, Result], oldest: _Waiting[Item, Result]) -> bool:
        if one.group is not oldest.group:
            return False
        if self._length is None:
            return True
        length = self._length(oldest.item)
        return _SHORTEST * length <= self._length(one.item) <= _LONGEST * length

    async def _answer(self, batch: list[_Waiting[Item, Result]]) -> None:
        try:
            results = await self._call(batch)
        except Exception as error:
            if len(batch) > 1:  # find the one that fails; the others did nothing wrong
                for one in batch:
                    if not one.answer.done():
                        await self._answer([one])
            elif not batch[0].answer.done():
                batch[0].answer.set_exception(error)
            return
        for one, result in zip(batch, results, strict=True):
            if not one.answer.done():
                one.answer.set_result(result)

    async def _call(self, batch: list[_Waiting[Item, Result]]) -> Sequence[Result]:
        self._sizes.observe(len(batch))
        group, items = batch[0].group, [one.item for one in batch]
        loop = asyncio.get_running_loop()
        with self._seconds.time():
            return await loop.run_in_executor(self._threads, self._work, group, items)


def too_late() -> Problem:
    """What a caller is told whose deadline has passed."""
    return Problem(
        "deadline-exceeded", "the time that the caller gave was up before the work began; try again", retry_after=1
    )
