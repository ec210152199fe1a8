"""Work whose caller may go."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import Request
from starlette.requests import ClientDisconnect

from services.encoder.app import create
from services.encoder.hangup import while_connected
from services.encoder.settings import EncoderSettings
from shared.artifacts import ArtifactStore, Ref


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


async def test_the_service_drops_the_work_of_a_caller_who_hung_up(store: ArtifactStore) -> None:
    store.activate(Ref("tiny", "1"), None)
    app = create(EncoderSettings(store=store.root, engine="onnx", threads=1, poll_seconds=0.05))
    sent: list[Any] = []
    incoming = iter([{"type": "http.request", "body": b'{"texts": ["a dog"]}'}])

    async def receive() -> dict[str, Any]:
        return next(incoming, {"type": "http.disconnect"})

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/embed/text", "query_string": b"", "headers": headers}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://encoder", timeout=60) as client,
    ):
        while (await client.get("/health/ready")).status_code != 200:
            await asyncio.sleep(0.02)
        await app(scope, receive, send)
        assert (await client.post("/embed/text", json={"texts": ["a dog"]})).status_code == 200
        assert 'route="/embed/text",service="encoder",status="499"} 1.0' in (await client.get("/metrics")).text
    assert sent[0]["status"] == 499
