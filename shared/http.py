"""The shell that every service wears: problem+json, request ids, health, metrics, a body limit, the internal token and
a graceful stop."""

from __future__ import annotations

import gc
import hmac
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.telemetry import TelemetryConfig
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import SecretStr
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from shared.docs import serve_docs
from shared.problems import MEDIA_TYPE, Problem
from shared.schemas import ProblemDocument, ReadyResponse
from shared.settings import ServiceSettings
from shared.telemetry import (
    QUIET_PATHS,
    ASGIApp,
    Message,
    Receive,
    Scope,
    Send,
    TelemetryMiddleware,
    configure_logging,
    log,
    request_id,
)
from shared.tracing import trace_requests

Problems = Callable[[], Awaitable[list[str]]]

# Of FastAPI's own telemetry only spans for requests, and only when there is where to send them (shared.tracing).
_TRACED: TelemetryConfig = {
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "exclude": lambda scope: scope["path"].startswith(QUIET_PATHS),
}

INTERNAL_HEADER = "X-Diptych-Internal"
# For the description of a service whose routes do not list their problems one by one.
ANY_PROBLEM: dict[int | str, dict[str, Any]] = {
    statuses: {
        "description": "A problem; docs/errors.md lists them all",
        "content": {MEDIA_TYPE: {"schema": ProblemDocument.model_json_schema()}},
    }
    for statuses in ("4XX", "5XX")
}
# How many milliseconds the caller will go on waiting, from when it sends the request.
DEADLINE_HEADER = "X-Diptych-Deadline-Ms"


def problem_response(problem: Problem) -> JSONResponse:
    return JSONResponse(problem.document(request_id()), problem.status, problem.headers, MEDIA_TYPE)


class BodyLimitMiddleware:
    """Refuses a body over ``limit`` bytes before it is read into memory, whether or not its length was declared. What
    is posted to the paths ``streamed`` is never held as a whole, and their routes see to it themselves."""

    def __init__(self, app: ASGIApp, limit: int, streamed: Collection[str] = ()) -> None:
        self._app = app
        self._limit = limit
        self._streamed = streamed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["method"] == "POST" and scope["path"] in self._streamed):
            return await self._app(scope, receive, send)
        too_large = Problem(
            "body-too-large", f"the request body is over the limit of {self._limit} bytes; send less at a time"
        )
        declared = next((v for k, v in scope["headers"] if k == b"content-length"), b"0")
        if declared.isdigit() and int(declared) > self._limit:
            return await problem_response(too_large)(scope, receive, send)
        seen = 0
        started = False

        async def counted_receive() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._limit:
                raise too_large
            return message

        async def watched_send(message: Message) -> None:
            # A parser may turn the refusal into an error of its own; ours is the one that the caller should see.
            nonlocal started
            if seen <= self._limit:
                started = True
                await send(message)

        try:
            await self._app(scope, counted_receive, watched_send)
        except Exception:
            if seen <= self._limit:
                raise
        if seen > self._limit and not started:
            await problem_response(too_large)(scope, receive, send)


class InternalTokenMiddleware:
    """Refuses whoever does not show the token, but for health and metrics, before a body is read."""

    def __init__(self, app: ASGIApp, token: SecretStr) -> None:
        self._app = app
        self._token = token.get_secret_value().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/health/") or scope["path"] == "/metrics":
            return await self._app(scope, receive, send)
        name = INTERNAL_HEADER.lower().encode()
        shown = next((value for key, value in scope["headers"] if key == name), b"")
        if hmac.compare_digest(shown, self._token):
            return await self._app(scope, receive, send)
        refusal = Problem(
            "unauthenticated",
            f"this service answers only its own gateway, and {INTERNAL_HEADER} is {'wrong' if shown else 'missing'}: "
            "give both the same DIPTYCH_INTERNAL_TOKEN",
            challenge="Diptych-Internal",
        )
        await problem_response(refusal)(scope, receive, send)


class EndingMiddleware:
    """Ends the requests that their routes did not: a crash is logged, once, and answered as a problem; of a caller who
    hung up no more is said than the status 499, which nobody reads but our log and metrics (the number is nginx's)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = gone = False

        async def watched_receive() -> Message:
            nonlocal gone
            message = await receive()
            gone = gone or message["type"] == "http.disconnect"
            return message

        async def watched_send(message: Message) -> None:
            # What a parser makes of an upload that ends in the middle is not what the request ended in.
            nonlocal started
            if started or not gone:
                started = True
                await send(message)

        ending: Response | None = None
        try:
            await self._app(scope, watched_receive, watched_send)
        except Exception as error:
            if started and not (gone and isinstance(error, ClientDisconnect)):
                raise  # the server logs it and breaks the connection, for half an answer has been sent
            if not gone:
                log.error("unhandled", exc_info=error)
                ending = problem_response(Problem("internal-error", "the failure was logged under this request id"))
        if gone:
            ending = Response(status_code=499)
        if ending is not None and not started:
            await ending(scope, receive, send)


def create_app(
    service: str,
    problems: Problems,
    *,
    max_body_bytes: int,
    streamed: Collection[str] = (),
    internal_token: SecretStr | None = None,
    title: str | None = None,
    **fastapi_options: Any,
) -> FastAPI:
    """A FastAPI application with everything but its own routes.

    ``problems`` lists, in sentences, what keeps the service from being ready; an empty list means ready. Bodies for the
    paths ``streamed`` may be of any length when they are posted. With an ``internal_token`` only who shows it is
    answered. With ``openapi_url=None`` there is no page at ``/docs``.
    """
    app = FastAPI(
        title=title or f"Diptych {service}", docs_url=None, redoc_url=None, telemetry=_TRACED, **fastapi_options
    )
    if app.openapi_url is not None:
        serve_docs(app)
    app.add_middleware(BodyLimitMiddleware, limit=max_body_bytes, streamed=streamed)
    if internal_token is not None:
        app.add_middleware(InternalTokenMiddleware, token=internal_token)
    app.add_middleware(EndingMiddleware)
    app.add_middleware(TelemetryMiddleware, service=service)

    @app.exception_handler(Problem)
    async def on_problem(_request: Request, problem: Problem) -> JSONResponse:
        return problem_response(problem)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        faults = [
            {"field": ".".join(str(part) for part in fault["loc"]), "message": fault["msg"]} for fault in error.errors()
        ]
        detail = "; ".join(f"{fault['field']}: {fault['message']}" for fault in faults)
        return problem_response(Problem("invalid-request", detail, errors=faults))

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 404:
            return problem_response(Problem("not-found", f"no route {request.url.path}; see /docs"))
        if error.status_code == 405:
            refusal = Problem("method-not-allowed", f"{request.url.path} does not take {request.method}")
            response = problem_response(refusal)
            response.headers["Allow"] = ", ".join(_methods(app, request.scope))
            return response
        return problem_response(Problem("invalid-request", str(error.detail)))

    @app.get("/health/live", tags=["health"], summary="The process is up")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @app.get(
        "/health/ready",
        tags=["health"],
        summary="Requests would be answered",
        responses={503: {"model": ReadyResponse}},
    )
    async def ready(response: Response) -> ReadyResponse:
        found = await problems()
        response.status_code = 503 if found else 200
        return ReadyResponse(ready=not found, problems=found)

    @app.get("/metrics", tags=["health"], summary="Prometheus metrics", response_class=Response)
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return app


def _methods(app: FastAPI, scope: Scope) -> list[str]:
    """What may be done at an address. Starlette names only what the first of the routes there takes."""
    return [
        method
        for method in ("DELETE", "GET", "HEAD", "POST", "PUT")
        if any(route.matches({**scope, "method": method})[0] == Match.FULL for route in app.routes)
    ]


def run(service: str, app: FastAPI, settings: ServiceSettings) -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests in flight."""
    configure_logging(service, settings.log_level, settings.log_format)
    trace_requests(service)
    log.info("starting", host=settings.host, port=settings.port)
    # What was imported stays: a collector that looks through it again and again stops all requests for 80 ms.
    gc.freeze()
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=int(settings.drain_seconds),
    )
