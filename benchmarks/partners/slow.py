"""An encoder of known speed: one request at a time, each answered so many seconds later by a real one.

``python -m benchmarks.partners.slow URL SECONDS PORT``
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web


def app(url: str, seconds: float) -> web.Application:
    one = asyncio.Lock()

    async def session(app: web.Application) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(auto_decompress=False) as app["session"]:
            yield

    async def passed_on(request: web.Request) -> web.Response:
        body = await request.read()
        if request.method == "POST":
            async with one:
                await asyncio.sleep(seconds)
        headers = {"Content-Type": request.headers.get("Content-Type", "application/octet-stream")}
        asked = request.app["session"].request(request.method, url + request.path_qs, data=body, headers=headers)
        async with asked as answer:
            kind = answer.headers.get("Content-Type", "")
            return web.Response(status=answer.status, body=await answer.read(), headers={"Content-Type": kind})

    made = web.Application()
    made.cleanup_ctx.append(session)
    made.router.add_route("*", "/{path:.*}", passed_on)
    return made


if __name__ == "__main__":
    web.run_app(app(sys.argv[1], float(sys.argv[2])), host="127.0.0.1", port=int(sys.argv[3]), print=None)
