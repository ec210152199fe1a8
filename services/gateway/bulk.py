"""Many photos in one request: a line in for each, a line out as each is done, and never many of them in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from starlette.responses import Response

from services.gateway import collection
from services.gateway.collection import Collection
from shared.problems import Problem
from shared.schemas_v1 import BulkResult, NewImage
from shared.telemetry import Receive, Scope, Send, log, request_id

MEDIA_TYPE = "application/x-ndjson"
MOST_METADATA = 16_384


@dataclass(frozen=True)
class Limits:
    """``lines`` in a request, of ``line_bytes`` each; ``together`` photos are worked on at once, of ``bytes_together``
    bytes unless it is a single one."""

    lines: int
    line_bytes: int
    together: int
    bytes_together: int


class BulkResponse(Response):
    """Reads the request and answers it at the same time. When the caller hangs up, what is under way is given up."""

    media_type = MEDIA_TYPE

    def __init__(self, photos: Collection, limits: Limits, streams: asyncio.Semaphore) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._photos = photos
        self._limits = limits
        self._streams = streams
        self._in_flight: dict[asyncio.Task[None], int] = {}
        self._answering = asyncio.Lock()

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async with self._streams:
                await self._work(receive, send)
        except _HungUpError:
            log.info("bulk upload broken off", under_way=len(self._in_flight))
            return
        finally:
            for task in self._in_flight:
                task.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _work(self, receive: Receive, send: Send) -> None:
        number = 0
        async for line in self._lines(receive):
            number += 1
            if number > self._limits.lines:
                problem = Problem(
                    "body-too-large", f"a request may have {self._limits.lines:,} lines: send the others in another"
                )
                await self._say(send, BulkResult(line=number, status="failed", problem=problem.document(request_id())))
                break
            size = len(line or b"")
            while self._in_flight and (
                len(self._in_flight) >= self._limits.together
                or sum(self._in_flight.values()) + size > self._limits.bytes_together
            ):
                await asyncio.wait(self._in_flight, return_when=asyncio.FIRST_COMPLETED)
            task = asyncio.create_task(self._put(number, line, send))
            self._in_flight[task] = size
            task.add_done_callback(lambda done: self._in_flight.pop(done, None))
        gone = asyncio.create_task(_hang_up(receive))
        try:
            while self._in_flight and not gone.done():
                await asyncio.wait([*self._in_flight, gone], return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not gone.done():
                gone.cancel()
        if self._in_flight:
            raise _HungUpError

    async def _lines(self, receive: Receive) -> AsyncIterator[bytes | None]:
        """Lines that are not blank; None for one that is too long."""
        part, too_long, more = bytearray(), False, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _HungUpError
            more = message.get("more_body", False)
            *ended, rest = message.get("body", b"").split(b"\n")
            for end in ended:
                part += end
                if too_long or len(part) > self._limits.line_bytes:
                    yield None
                elif part.strip():
                    yield bytes(part)
                part, too_long = bytearray(), False
            if too_long or len(part) + len(rest) > self._limits.line_bytes:
                part, too_long = bytearray(), True
            else:
                part += rest
        if too_long:
            yield None
        elif part.strip():
            yield bytes(part)

    async def _put(self, number: int, line: bytes | None, send: Send) -> None:
        image_id = None
        try:
            if line is None:
                raise Problem(
                    "body-too-large", f"the line has over {self._limits.line_bytes:,} bytes; send a smaller picture"
                )
            new = _parsed(line)
            image_id = new.id
            changed = await self._photos.put(
                collection.NewImage(new.image, new.name, new.id, new.captions, new.tags, new.metadata)
            )
            result = BulkResult(line=number, status=changed.status, id=changed.id, duplicates=changed.duplicates)
        except Problem as problem:
            result = _failed(number, image_id, problem)
        except Exception as error:  # one photo must not end the others' request
            log.error("unhandled", exc_info=error)
            unknown = Problem("internal-error", "the failure was logged under this request id")
            result = _failed(number, image_id, unknown)
        await self._say(send, result)

    async def _say(self, send: Send, result: BulkResult) -> None:
        body = result.model_dump_json(exclude_none=True).encode() + b"\n"
        async with self._answering:
            await send({"type": "http.response.body", "body": body, "more_body": True})


class _HungUpError(Exception):
    pass


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _failed(number: int, image_id: str | None, problem: Problem) -> BulkResult:
    return BulkResult(line=number, status="failed", id=image_id, problem=problem.document(request_id()))


def _parsed(line: bytes) -> NewImage:
    """Raises :class:`Problem`."""
    try:
        new = NewImage.model_validate_json(line)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'line'}: {fault['msg']}" for fault in error.errors(include_url=False)
        ]
        raise Problem("invalid-request", "; ".join(faults[:5])) from error
    check_metadata(new.metadata)
    return new


def check_metadata(metadata: dict[str, Any]) -> None:
    """Raises :class:`Problem` for what cannot be stored."""
    try:
        size = len(json.dumps(metadata, allow_nan=False, ensure_ascii=False).encode())
    except (ValueError, RecursionError) as error:
        raise Problem("invalid-request", f"metadata: it is not JSON: {error}") from error
    if size > MOST_METADATA:
        raise Problem("invalid-request", f"metadata: {size:,} bytes, the limit is {MOST_METADATA:,}")
