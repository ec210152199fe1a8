"""Work whose caller may go."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import Request
from starlette.requests import ClientDisconnect

from shared.hangup import handled_while_connected, while_connected


class Line:
    """The caller's end: still there until :meth:`hang_up`."""

    def __init__(self) -> None:
        self._gone = asyncio.Event()
        self.request = Request({"type": "http"}, self._receive)

    async def _receive(self) -> dict[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    def hang_up(self) -> None:
        self._gone.set()


class Endless:
    """Work that only ends when it is cancelled."""

    def __init__(self) -> None:
        self.started, self.cancelled = asyncio.Event(), asyncio.Event()

    async def done(self) -> None:
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()

    async def done_after_body(self, request: Request) -> None:
        await request.body()
        await self.done()


async def test_the_result_comes_through() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 7

    assert await while_connected(Line().request, work()) == 7


async def test_an_error_comes_through() -> None:
    async def work() -> int:
        raise ArithmeticError("no")

    with pytest.raises(ArithmeticError, match="no"):
        await while_connected(Line().request, work())


async def test_work_is_cancelled_when_the_caller_hangs_up() -> None:
    line, work = Line(), Endless()

    waiting = asyncio.create_task(while_connected(line.request, work.done()))
    await work.started.wait()
    line.hang_up()
    with pytest.raises(ClientDisconnect):
        await waiting
    await work.cancelled.wait()


async def test_work_is_cancelled_with_its_request() -> None:
    work = Endless()

    waiting = asyncio.create_task(while_connected(Line().request, work.done()))
    await work.started.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await work.cancelled.wait()


class Upload(Line):
    """A caller that sends ``parts`` one after the other, and then nothing more."""

    def __init__(self, *parts: bytes) -> None:
        super().__init__()
        self._parts = list(parts)

    async def _receive(self) -> dict[str, Any]:
        if self._parts:
            part = self._parts.pop(0)
            await asyncio.sleep(0)
            return {"type": "http.request", "body": part, "more_body": bool(self._parts)}
        return await super()._receive()


async def test_a_handler_reads_the_whole_body() -> None:
    async def handle(request: Request) -> bytes:
        return await request.body()

    assert await handled_while_connected(Upload(b"a", b" ", b"dog").request, handle) == b"a dog"


async def test_what_a_handler_raises_comes_through_early_and_late() -> None:
    async def handle(request: Request) -> bytes:
        await asyncio.sleep(float(await request.body()))
        raise ArithmeticError("no")

    for seconds in (b"0", b"0.2"):
        with pytest.raises(ArithmeticError, match="no"):
            await handled_while_connected(Upload(seconds).request, handle)


async def test_a_handler_is_cancelled_when_the_caller_hangs_up_after_the_body_was_read() -> None:
    line, work = Upload(b"a dog"), Endless()

    waiting = asyncio.create_task(handled_while_connected(line.request, work.done_after_body))
    await work.started.wait()
    line.hang_up()
    with pytest.raises(ClientDisconnect):
        await waiting
    await work.cancelled.wait()


async def test_a_handler_is_cancelled_with_its_request() -> None:
    for wait in (0.0, 0.2):
        work = Endless()
        waiting = asyncio.create_task(handled_while_connected(Upload(b"a dog").request, work.done_after_body))
        await work.started.wait()
        await asyncio.sleep(wait)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await work.cancelled.wait()
