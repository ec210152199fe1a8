"""Logs with a request id that crosses services, and the HTTP metrics that every service has."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from functools import cache
from typing import Any

import structlog
from prometheus_client import Counter, Gauge, Histogram
from structlog.contextvars import bind_contextvars, clear_contextvars, get_contextvars

REQUEST_ID_HEADER = "X-Request-ID"
_ID_HEADER = REQUEST_ID_HEADER.lower().encode()
_SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
QUIET_PATHS = ("/health/", "/metrics", "/status")

REQUESTS = Counter("diptych_http_requests_total", "Requests answered.", ["service", "route", "method", "status"])
LATENCY = Histogram(
    "diptych_http_request_seconds",
    "Time from the first byte in to the last byte out.",
    ["service", "route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
IN_FLIGHT = Gauge("diptych_http_requests_in_flight", "Requests being worked on.", ["service"])

# To find the child of some label values takes longer than to count: each is found once.
_requests, _latency, _in_flight = cache(REQUESTS.labels), cache(LATENCY.labels), cache(IN_FLIGHT.labels)

log: structlog.stdlib.BoundLogger = structlog.get_logger()


_ENCODE = json.JSONEncoder(ensure_ascii=False, default=repr).encode


def _as_json(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
    """As structlog's own renderer, which makes an encoder anew for each line."""
    return _ENCODE(event)


def configure_logging(service: str, level: str = "info", log_format: str = "json") -> None:
    """One line per event on standard error: JSON for machines, ``console`` for people."""
    stamps: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        _as_json if log_format == "json" else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )

    def name_service(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["service"] = service
        return event

    structlog.configure(
        processors=[*stamps, name_service, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries that log through the standard module speak in the same format.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=stamps,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, name_service, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)


def request_id() -> str | None:
    """The id of the request being handled, to hand on to neighbours in :data:`REQUEST_ID_HEADER`."""
    value = get_contextvars().get("request_id")
    return value if isinstance(value, str) else None


Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


def id_of(scope: Scope) -> str:
    """The request's id: the caller's, when it is safe to log, or a new one."""
    offered = next((v for k, v in scope["headers"] if k == _ID_HEADER), b"").decode("latin-1")
    return offered if _SAFE_ID.fullmatch(offered) else uuid.uuid4().hex


def count_request(service: str, route: str, method: str, status: int) -> None:
    _requests(service, route, method if method in _METHODS else "other", str(status)).inc()


class TelemetryMiddleware:
    """Gives each request an id, counts it, times it, logs it once."""

    def __init__(self, app: ASGIApp, service: str) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        rid = id_of(scope)
        clear_contextvars()
        bind_contextvars(request_id=rid)
        status = 500
        started = time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (_ID_HEADER, rid.encode())]
            await send(message)

        _in_flight(self._service).inc()
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            seconds = time.perf_counter() - started
            # The route's template, not the path, and no invented methods: callers must not choose label values.
            route = getattr(scope.get("route"), "path", None) or "unmatched"
            _in_flight(self._service).dec()
            count_request(self._service, route, scope["method"], status)
            _latency(self._service, route).observe(seconds)
            if not scope["path"].startswith(QUIET_PATHS):
                log.info(
                    "request", method=scope["method"], path=scope["path"], status=status, ms=round(seconds * 1000, 2)
                )
