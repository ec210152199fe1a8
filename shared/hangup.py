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
    """As :func:`while_connected`, of work that reads the body itself. What is done soon is not watched."""
    whole = False

    async def receive() -> Message:
        nonlocal whole
        message = await request.receive()
        whole = not message.get("more_body", False)
        return message

    working = asyncio.create_task(handle(Request(request.scope, receive)))
    try:
        while not working.done() and not whole:
            await asyncio.wait((working,), timeout=_SOON_SECONDS)
        if not working.done():
            await asyncio.wait((working,), timeout=_SOON_SECONDS)
        if working.done():
            return working.result()
    except asyncio.CancelledError:
        working.cancel()
        raise
    return await while_connected(request, _outcome(working))


async def _outcome(working: asyncio.Task[T]) -> T:
    """What comes of a task, which ends when whoever waits for it is cancelled."""
    return await working


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
