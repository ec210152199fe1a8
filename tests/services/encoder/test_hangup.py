"""The service, when a caller goes."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from services.encoder.app import create
from services.encoder.settings import EncoderSettings
from shared.artifacts import ArtifactStore, Ref


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
