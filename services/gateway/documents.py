"""Problems as the interface's description at ``/docs`` shows them, and the one for an invalid request."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from shared.http import problem_response
from shared.problems import CATALOGUE, MEDIA_TYPE, Problem
from shared.schemas import ProblemDocument

_SHOWN = 60


def described(**examples: str) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses for kinds of problems (``invalid_request="k: ..."``), each with an example of its detail."""
    responses: dict[int | str, dict[str, Any]] = {}
    for name, detail in examples.items():
        slug = name.replace("_", "-")
        status, title = CATALOGUE[slug][:2]
        response = responses.setdefault(
            status,
            {
                "description": title,
                "content": {MEDIA_TYPE: {"schema": ProblemDocument.model_json_schema(), "examples": {}}},
            },
        )
        document = Problem(slug, detail).document("5d1c3b0e9a7f4c52")
        response["content"][MEDIA_TYPE]["examples"][slug] = {"summary": title, "value": document}
    return responses


async def refuse(_request: Request, error: RequestValidationError) -> JSONResponse:
    """Answers a request that FastAPI found invalid, naming beside what was expected also what came."""
    faults = [
        {"field": ".".join(str(part) for part in fault["loc"][1:]), "message": _message(fault)}
        for fault in error.errors()
    ]
    detail = "; ".join(f"{fault['field']}: {fault['message']}" for fault in faults)
    return problem_response(Problem("invalid-request", detail, errors=faults))


def _message(fault: dict[str, Any]) -> str:
    message, value = str(fault["msg"]), fault.get("input")
    if "UploadFile" in message:
        return "a file is needed, with a file name; a form field came"
    if not isinstance(value, str):
        return message
    shown = repr(value) if len(value) <= _SHOWN else f"{value[:_SHOWN]!r}... ({len(value):,} characters)"
    return f"{message}, not {shown}"
