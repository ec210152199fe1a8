"""``/v1/images:bulk``."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from services.gateway.access import REFUSALS, needs
from services.gateway.bulk import MEDIA_TYPE, BulkResponse, Limits
from services.gateway.documents import described
from services.gateway.settings import GatewaySettings
from services.gateway.wiring import Connected
from shared.problems import Problem
from shared.schemas_v1 import BulkResult, NewImage

PATH = "/v1/images:bulk"
_LINES = 10_000
_STREAMS = 4
_TOGETHER = 8
_LINE_OVERHEAD = 1024 * 1024
_LINE_IN = '{"id": "beach-1", "image": "/9j/4AAQSkZJRg...", "captions": ["a dog on the beach"], "tags": ["holiday"]}\n'
_LINES_OUT = (
    '{"line":1,"status":"created","id":"beach-1","duplicates":[]}\n'
    '{"line":2,"status":"failed","problem":{"type":"urn:diptych:problem:invalid-request","title":"The request is not '
    'valid","status":422,"detail":"image: Field required"}}\n'
)


def v1_bulk_routes(settings: GatewaySettings, route_class: type[APIRoute]) -> APIRouter:
    router = APIRouter(tags=["collection"], route_class=route_class, dependencies=[needs("write")])
    limits = Limits(
        lines=_LINES,
        line_bytes=settings.max_upload_bytes * 4 // 3 + _LINE_OVERHEAD,
        together=_TOGETHER,
        bytes_together=2 * settings.max_upload_bytes,
    )
    streams = asyncio.Semaphore(_STREAMS)

    @router.post(
        PATH,
        summary="Add or replace many photos in one request",
        response_class=BulkResponse,
        status_code=200,
        responses={
            200: {
                "description": "A line for each line, as it is done",
                "model": BulkResult,
                "content": {MEDIA_TYPE: {"example": _LINES_OUT}},
            },
            **described(
                invalid_request="Content-Type: application/x-ndjson is needed, not 'text/plain'",
                **REFUSALS,
                overloaded="4 bulk uploads are under way; try again",
            ),
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {MEDIA_TYPE: {"schema": NewImage.model_json_schema(), "example": _LINE_IN}},
            }
        },
    )
    async def bulk(gateway: Connected, request: Request) -> Response:
        """One JSON object a line, in both directions. A line that is broken is told of and the others go on. Results
        come in the order in which they are done, so read them by `line`, and read them while you send. Up to 10,000
        lines a request; sending the same again changes nothing."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in (MEDIA_TYPE, "application/jsonl", "application/json-lines"):
            raise Problem("invalid-request", f"Content-Type: {MEDIA_TYPE} is needed, not {kind[:80]!r}")
        if streams.locked():
            raise Problem("overloaded", f"{_STREAMS} bulk uploads are under way; try again", retry_after=1)
        return BulkResponse(gateway.collection, limits, streams)

    return router
