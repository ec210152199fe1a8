"""What is over the limit, refused before anything else is done with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from httpx import ASGITransport, AsyncClient
from prometheus_client import REGISTRY

from services.gateway.app import create
from services.gateway.settings import GatewaySettings

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


async def test_refusals_are_counted_carry_the_callers_id_and_spare_other_routes() -> None:
    app = create(GatewaySettings(max_searches=1, poll_seconds=60))
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slow_body() -> AsyncIterator[bytes]:
        yield b"text=a"
        arrived.set()
        await go_on.wait()
        yield b"+dog"

    def count(path: str) -> float:
        labels = {"service": "gateway", "route": path, "method": "POST", "status": "503"}
        return REGISTRY.get_sample_value("diptych_http_requests_total", labels) or 0.0

    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=ASGITransport(app), base_url="http://gateway") as client,
    ):
        first = asyncio.create_task(client.post("/text-to-image", content=slow_body(), headers=FORM))
        await arrived.wait()
        for path in ("/text-to-image", "/image-to-text", "/v1/search", "/v1/captions", "/v1/explain", "/v1/embeddings"):
            before = count(path)
            refused = await client.post(path, content=b"whatever", headers={"X-Request-ID": "mine-1"})
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1"), path
            assert refused.json()["type"] == "urn:diptych:problem:overloaded"
            assert refused.json()["request_id"] == refused.headers["X-Request-ID"] == "mine-1"
            assert count(path) == before + 1
        other = await client.get("/v1/images")
        assert other.json()["type"] == "urn:diptych:problem:neighbour-unavailable"
        go_on.set()
        await first
        assert (await client.post("/text-to-image", data={"text": "a dog"})).json()["type"] != "overloaded"
