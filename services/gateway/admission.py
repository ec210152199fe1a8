"""The bound on how much the gateway is given to do at once. A queue would only make everybody late, so what is over it
is refused; and cheaply, so that refusing does not take the time of what was admitted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from services.gateway import metrics
from services.gateway.access import Needs
from services.gateway.forms import form_handler
from shared.hangup import handled_while_connected
from shared.problems import MEDIA_TYPE, Problem
from shared.telemetry import REQUEST_ID_HEADER, ASGIApp, Receive, Scope, Send, count_request, id_of


class Limit:
    """At most ``most`` requests."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._in_flight = 0

    @property
    def reached(self) -> bool:
        return self._in_flight >= self.most

    @property
    def refusal(self) -> Problem:
        return Problem("overloaded", f"{self.most} requests are being worked on; ask again in a second", retry_after=1)

    def __enter__(self) -> None:
        if self.reached:
            metrics.REFUSED.inc()
            raise self.refusal
        self._in_flight += 1

    def __exit__(self, *_: object) -> None:
        self._in_flight -= 1


def admitting(limit: Limit, *, drops: bool = False) -> type[APIRoute]:
    """Routes whose requests count towards ``limit`` from before a body is read. Where they ``drop``, the work for a
    caller who hangs up is given up.

    What a route ``needs`` is asked for before the body, too, so that nobody uploads without a key.
    """

    class AdmittedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = form_handler(self) or super().get_route_handler()
            needed = [asked.dependency for asked in self.dependencies if isinstance(asked.dependency, Needs)]

            async def admitted(request: Request) -> Response:
                with limit:
                    for needs in needed:
                        await needs.check(request)
                    return await (handled_while_connected(request, handle) if drops else handle(request))

            return admitted

    return AdmittedRoute


class RefusingMiddleware:
    """Refuses what is posted to ``paths`` while the ``limit`` is reached, before anything else is done with it. It is
    counted as every request is, but not logged: under overload the log would be most of the work."""

    def __init__(self, app: ASGIApp, limit: Limit, paths: Collection[str]) -> None:
        self._app = app
        self._limit = limit
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._limit.reached or scope["type"] != "http" or scope["path"] not in self._paths:
            return await self._app(scope, receive, send)
        metrics.REFUSED.inc()
        refusal = self._limit.refusal
        count_request("gateway", scope["path"], scope["method"], refusal.status)
        request_id = id_of(scope)
        headers = {**refusal.headers, REQUEST_ID_HEADER: request_id}
        await JSONResponse(refusal.document(request_id), refusal.status, headers, MEDIA_TYPE)(scope, receive, send)
