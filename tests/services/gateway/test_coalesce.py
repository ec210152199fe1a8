import asyncio

import pytest

from services.gateway.coalesce import Coalescer


class Counted:
    """A computation that waits until told to finish, and counts how often it began and was given up."""

    def __init__(self, result: int | Exception = 42) -> None:
        self.began = 0
        self.given_up = 0
        self.finish = asyncio.Event()
        self._result = result

    async def __call__(self) -> int:
        self.began += 1
        try:
            await self.finish.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        if isinstance(self._result, Exception):
            raise self._result
        return self._result


async def soon() -> None:
    """Let every task that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_identical_requests_share_one_computation() -> None:
    coalescer: Coalescer[int] = Coalescer()
    compute = Counted()
    callers = [asyncio.create_task(coalescer.run("key", compute)) for _ in range(10)]
    await soon()
    compute.finish.set()
    assert await asyncio.gather(*callers) == [42] * 10
    assert compute.began == 1
    assert len(coalescer) == 0


async def test_different_keys_do_not_wait_for_each_other() -> None:
    coalescer: Coalescer[int] = Coalescer()
    slow, quick = Counted(1), Counted(2)
    waiting = asyncio.create_task(coalescer.run("slow", slow))
    quick.finish.set()
    assert await coalescer.run("quick", quick) == 2
    slow.finish.set()
    assert await waiting == 1


async def test_a_cancelled_caller_leaves_the_others_their_answer() -> None:
    coalescer: Coalescer[int] = Coalescer()
    compute = Counted()
    first, second = (asyncio.create_task(coalescer.run("key", compute)) for _ in range(2))
    await soon()
    first.cancel()
    await soon()
    compute.finish.set()
    assert await second == 42
    assert first.cancelled()
    assert (compute.began, compute.given_up) == (1, 0)


async def test_when_the_last_caller_goes_so_does_the_computation_and_the_next_begins_anew() -> None:
    coalescer: Coalescer[int] = Coalescer()
    compute = Counted()
    callers = [asyncio.create_task(coalescer.run("key", compute)) for _ in range(2)]
    await soon()
    for caller in callers:
        caller.cancel()
    again = asyncio.create_task(coalescer.run("key", compute))
    await soon()
    assert (compute.began, compute.given_up) == (2, 1)
    compute.finish.set()
    assert await again == 42
    assert len(coalescer) == 0


async def test_an_error_reaches_every_caller_and_is_not_kept() -> None:
    coalescer: Coalescer[int] = Coalescer()
    failing = Counted(ValueError("broken"))
    callers = [asyncio.create_task(coalescer.run("key", failing)) for _ in range(3)]
    await soon()
    failing.finish.set()
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["broken"] * 3
    working = Counted()
    working.finish.set()
    assert await coalescer.run("key", working) == 42


async def test_a_failure_after_everybody_left_is_silent() -> None:
    coalescer: Coalescer[int] = Coalescer()
    failing = Counted(ValueError("nobody hears this"))
    caller = asyncio.create_task(coalescer.run("key", failing))
    await soon()
    failing.finish.set()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await soon()
    assert len(coalescer) == 0
