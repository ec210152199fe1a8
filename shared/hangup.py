"""Work that is worth doing only while its caller waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import Message

T = TypeVar("T")
_SOON_SECONDS = 0.05


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is cancelled when the caller hangs up. To be called when the body has been read.

    Raises :class:`ClientDisconnect` in that case.
    """
    working, gone = asyncio.create_task(work), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        gone.cancel()


async def handled_while_connected(request: Request, handle: Callable[[Request], Coroutine[Any, Any, T]]) -> T:
    """As :func:`while_connected`, of work that reads the body itself. What is done soon is not watched, and costs no
    task."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    whole = gone = False
    watching: asyncio.Task[None] | None = None

    async def receive() -> Message:
        nonlocal whole
        message = await request.receive()
        whole = not message.get("more_body", False)
        return message

    async def watch() -> None:
        nonlocal gone
        while not whole:  # noqa: ASYNC110  (of a body that is being read it is the reader who notices)
            await asyncio.sleep(_SOON_SECONDS)
        await _gone(request)
        gone = True
        task.cancel()

    def begin() -> None:
        nonlocal watching
        watching = loop.create_task(watch())

    timer = loop.call_later(_SOON_SECONDS, begin)
    try:
        return await handle(Request(request.scope, receive))
    except asyncio.CancelledError:
        if gone:
            task.uncancel()
            raise ClientDisconnect from None
        raise
    finally:
        timer.cancel()
        if watching is not None:
            watching.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
