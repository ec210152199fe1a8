"""Forms read and validated in one step.

FastAPI resolves every field of a form, and every dependency of its route, by itself: 0.5 ms of a search that takes as
long again to answer from the cache. The fields are declared as ever, and described at ``/docs``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from typing import Any, get_origin

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.params import Form
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError, create_model
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

_SMALL = 16 * 1024
_BOUNDARY = re.compile(r"multipart/form-data; ?boundary=([A-Za-z0-9'_-]{1,70})")
_FIELD = re.compile(
    rb"\r\n(?:Content-Type: text/plain; charset=utf-8\r\n)?"
    rb'Content-Disposition: form-data; name="([A-Za-z0-9_]+)"\r\n\r\n(.*)',
    re.DOTALL,
)

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def form_handler(route: APIRoute) -> Handler | None:
    """What answers a route whose endpoint takes the request and the fields of a form, and gives a :class:`Response`;
    None for other routes."""
    fields = {field.alias: field.field_info for field in route.dependant.body_params}
    name = route.dependant.request_param_name
    if name is None or not fields or not all(isinstance(field, Form) for field in fields.values()):
        return None
    declared: dict[str, Any] = {alias: (field.annotation, field) for alias, field in fields.items()}
    schema: type[BaseModel] = create_model("Fields", **declared)
    lists = frozenset(alias for alias, field in fields.items() if get_origin(field.annotation) is list)
    endpoint = route.endpoint

    async def handle(request: Request) -> Response:
        try:
            form = await _read(request)
        except HTTPException:
            raise
        except Exception as error:
            raise HTTPException(400, "There was an error parsing the body") from error
        try:
            response: Response = await endpoint(**{name: request}, **_valid(schema, _sent(form, lists)))
        finally:
            await form.close()
        return response

    return handle


async def _read(request: Request) -> FormData:
    headers = request.headers
    length, boundary = headers.get("Content-Length", ""), _BOUNDARY.fullmatch(headers.get("Content-Type", ""))
    if boundary and length.isdigit() and int(length) <= _SMALL:
        fields = simple_fields(await request.body(), boundary[1].encode())
        if fields is not None:
            return FormData(fields)
    return await request.form()


def simple_fields(body: bytes, boundary: bytes) -> list[tuple[str, str | UploadFile]] | None:
    """The fields of a multipart form (RFC 7578) as clients write it that send no files; None for what is written in any
    other way, which is left to the parser that knows them all, and takes ten times as long."""
    first, *parts = (b"\r\n" + body).split(b"\r\n--" + boundary)
    if first or len(parts) < 2 or parts.pop() not in (b"--", b"--\r\n"):
        return None
    found: list[tuple[str, str | UploadFile]] = []
    for part in parts:
        field = _FIELD.fullmatch(part)
        if field is None:
            return None
        try:
            found.append((field[1].decode(), field[2].decode()))
        except UnicodeDecodeError:
            return None
    return found


def _valid(schema: type[BaseModel], sent: dict[str, Any]) -> dict[str, Any]:
    try:
        return dict(schema.model_validate(sent))
    except ValidationError as error:
        faults = error.errors(include_url=False)
        raise RequestValidationError([{**fault, "loc": ("body", *fault["loc"])} for fault in faults]) from error


def _sent(form: FormData, lists: frozenset[str]) -> dict[str, Any]:
    """The fields by name, of those sent twice the last; what was left empty counts as not sent."""
    sent: dict[str, Any] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if value.filename == "" and value.size == 0:
                continue  # what a browser sends when no file was chosen
        elif value == "":
            if name not in lists:
                sent.pop(name, None)
            continue
        if name in lists:
            sent.setdefault(name, []).append(value)
        else:
            sent[name] = value
    return sent
