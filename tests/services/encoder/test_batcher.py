"""One lane of the encoder: what waits together is computed together, and nobody pays for another's mistake."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from services.encoder.batcher import Batcher
from shared.problems import Problem

OLD, NEW = object(), object()


class Worker:
    """Squares numbers; ``gate`` holds it while the test fills the queue. Fails for a batch with a negative number."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.calls: list[tuple[object, list[int]]] = []
        self.began = threading.Event()

    def __call__(self, group: object, items: list[int]) -> Sequence[int]:
        self.calls.append((group, items))
        self.began.set()
        assert self.gate.wait(30)
        if min(items) < 0:
            raise ArithmeticError(f"{min(items)} is negative")
        return [item**2 for item in items]

    @property
    def batches(self) -> list[list[int]]:
        return [items for _, items in self.calls]


@asynccontextmanager
async def _lane(
    worker: Worker, *, max_batch: int = 4, max_delay: float = 0, max_queue: int = 20
) -> AsyncIterator[Batcher[int, int]]:
    lane: Batcher[int, int] = Batcher("test", worker, max_batch=max_batch, max_delay=max_delay, max_queue=max_queue)
    async with lane.running():
        try:
            yield lane
        finally:
            worker.gate.set()


async def _busy(lane: Batcher[int, int], worker: Worker) -> asyncio.Task[list[int]]:
    """Occupy the worker with the number 9 until the gate opens."""
    worker.gate.clear()
    task = asyncio.create_task(lane.submit(OLD, [9]))
    await asyncio.to_thread(worker.began.wait, 30)
    return task


async def _submitted(lane: Batcher[int, int], group: object, *items: int) -> asyncio.Task[list[int]]:
    task = asyncio.create_task(lane.submit(group, items))
    await asyncio.sleep(0)
    return task


async def test_results_come_in_the_order_of_the_items() -> None:
    worker = Worker()
    async with _lane(worker) as lane:
        assert await lane.submit(OLD, list(range(10))) == [n**2 for n in range(10)]
        assert await lane.submit(OLD, []) == []
    assert worker.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


async def test_a_free_worker_starts_at_once() -> None:
    worker = Worker()
    async with _lane(worker) as lane:
        assert await lane.submit(OLD, [1]) == [1]
        assert await lane.submit(OLD, [2]) == [4]
    assert worker.batches == [[1], [2]]


async def test_what_gathers_while_it_is_busy_shares_a_call() -> None:
    worker = Worker()
    async with _lane(worker) as lane:
        first = await _busy(lane, worker)
        others = [await _submitted(lane, OLD, n) for n in range(6)]
        worker.gate.set()
        assert await asyncio.gather(first, *others) == [[81], *([n**2] for n in range(6))]
    assert worker.batches == [[9], [0, 1, 2, 3], [4, 5]]


async def test_with_a_delay_even_an_idle_worker_waits_for_company() -> None:
    worker = Worker()
    async with _lane(worker, max_delay=60, max_batch=3) as lane:
        tasks = [await _submitted(lane, OLD, n) for n in range(3)]
        assert await asyncio.gather(*tasks) == [[0], [1], [4]]
    assert worker.batches == [[0, 1, 2]]


async def test_a_delay_ends_without_company_too() -> None:
    worker = Worker()
    async with _lane(worker, max_delay=0.02, max_batch=3) as lane:
        assert await lane.submit(OLD, [5]) == [25]


async def test_versions_never_share_a_call_and_none_is_left_behind() -> None:
    worker = Worker()
    async with _lane(worker) as lane:
        first = await _busy(lane, worker)
        tasks = [await _submitted(lane, NEW if n % 2 else OLD, n) for n in range(6)]
        worker.gate.set()
        assert await asyncio.gather(first, *tasks) == [[81], *([n**2] for n in range(6))]
    assert worker.calls == [(OLD, [9]), (OLD, [0, 2, 4]), (NEW, [1, 3, 5])]


async def test_an_item_whose_caller_has_gone_costs_nothing() -> None:
    worker = Worker()
    async with _lane(worker, max_queue=3) as lane:
        first = await _busy(lane, worker)
        gone, stays = await _submitted(lane, OLD, 1, 2), await _submitted(lane, OLD, 3)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        late = await _submitted(lane, OLD, 4, 5)  # fits: those that left made room
        worker.gate.set()
        assert list(await asyncio.gather(first, stays, late)) == [[81], [9], [16, 25]]
    assert worker.batches == [[9], [3, 4, 5]]


async def test_a_caller_that_goes_during_the_call_does_not_disturb_the_others() -> None:
    worker = Worker()
    async with _lane(worker) as lane:
        first = await _busy(lane, worker)
        other = await _submitted(lane, OLD, 2)
        first.cancel()
        worker.gate.set()
        assert await other == [4]


async def test_a_full_lane_refuses_and_says_when_to_come_back() -> None:
    worker = Worker()
    async with _lane(worker, max_queue=3) as lane:
        first = await _busy(lane, worker)
        waiting = await _submitted(lane, OLD, 1, 2)
        with pytest.raises(Problem, match="2 items wait for the test lane already; try again") as raised:
            await lane.submit(OLD, [3, 4])
        assert (raised.value.slug, raised.value.retry_after) == ("overloaded", 1)
        fits = await _submitted(lane, OLD, 3)
        worker.gate.set()
        assert list(await asyncio.gather(first, waiting, fits)) == [[81], [1, 4], [9]]


async def test_an_item_that_fails_fails_alone() -> None:
    worker = Worker()
    async with _lane(worker) as lane:
        first = await _busy(lane, worker)
        tasks = [await _submitted(lane, OLD, n) for n in (1, -7, 2)]
        worker.gate.set()
        results = await asyncio.gather(first, *tasks, return_exceptions=True)
        assert results[:2] == [[81], [1]]
        assert isinstance(results[2], ArithmeticError)
        assert results[3] == [4]
        assert await lane.submit(OLD, [3]) == [9]  # the lane is alive


async def test_a_request_with_a_failing_item_fails_as_a_whole() -> None:
    worker = Worker()
    async with _lane(worker) as lane:
        with pytest.raises(ArithmeticError, match="-1 is negative"):
            await lane.submit(OLD, [1, -1, 2, 3, 4, 5, 6, 7, 8])
        assert await lane.submit(OLD, [3]) == [9]
    assert worker.batches[-1] == [3]


async def test_a_stop_finishes_what_was_accepted_and_refuses_the_rest() -> None:
    worker = Worker()
    lane: Batcher[int, int] = Batcher("test", worker, max_batch=4, max_delay=60, max_queue=20)
    async with lane.running():
        accepted = await _submitted(lane, OLD, 1, 2, 3)  # would wait a minute for a fourth
    assert await accepted == [1, 4, 9]
    with pytest.raises(Problem, match="the service is stopping") as raised:
        await lane.submit(OLD, [4])
    assert raised.value.slug == "not-ready"


async def test_items_of_about_the_same_length_share_a_call_and_answers_keep_their_order() -> None:
    worker = Worker()
    lane: Batcher[int, int] = Batcher("test", worker, max_batch=4, max_delay=0, max_queue=20, length=lambda n: n)
    async with lane.running():
        assert await lane.submit(OLD, [10, 40, 11, 41, 12]) == [100, 1600, 121, 1681, 144]
    assert worker.batches == [[10, 11, 12], [40, 41]]


async def test_an_item_whose_time_is_up_is_dropped_before_it_costs_anything() -> None:
    worker = Worker()
    async with _lane(worker) as lane:
        first = await _busy(lane, worker)
        late = asyncio.create_task(lane.submit(OLD, [1], asyncio.get_running_loop().time()))
        stays = await _submitted(lane, OLD, 2)
        worker.gate.set()
        assert list(await asyncio.gather(first, stays)) == [[81], [4]]
        with pytest.raises(Problem, match="the time that the caller gave was up") as raised:
            await late
        assert (raised.value.slug, raised.value.status) == ("deadline-exceeded", 503)
    assert worker.batches == [[9], [2]]
