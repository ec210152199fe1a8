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
    line, started, cancelled = Line(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    waiting = asyncio.create_task(while_connected(line.request, work()))
    await started.wait()
    line.hang_up()
    with pytest.raises(ClientDisconnect):
        await waiting
    await cancelled.wait()


async def test_work_is_cancelled_with_its_request() -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    waiting = asyncio.create_task(while_connected(Line().request, work()))
    await started.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await cancelled.wait()


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
    line, started, cancelled = Upload(b"a dog"), asyncio.Event(), asyncio.Event()

    async def handle(request: Request) -> None:
        await request.body()
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    waiting = asyncio.create_task(handled_while_connected(line.request, handle))
    await started.wait()
    line.hang_up()
    with pytest.raises(ClientDisconnect):
        await waiting
    await cancelled.wait()


async def test_a_handler_is_cancelled_with_its_request() -> None:
    for wait in (0.0, 0.2):
        started, cancelled = asyncio.Event(), asyncio.Event()

        async def handle(
            request: Request, started: asyncio.Event = started, cancelled: asyncio.Event = cancelled
        ) -> None:
            await request.body()
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        waiting = asyncio.create_task(handled_while_connected(Upload(b"a dog").request, handle))
        await started.wait()
        await asyncio.sleep(wait)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await cancelled.wait()
