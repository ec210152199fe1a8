"""The gateway service: the public face of Diptych."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware

from services.gateway.admission import Limit, RefusingMiddleware, admitting
from services.gateway.collection_routes import collection_routes
from services.gateway.documents import refuse
from services.gateway.routes import model_routes, photo_routes, search_routes
from services.gateway.settings import GatewaySettings
from services.gateway.v1_bulk import PATH as BULK
from services.gateway.v1_bulk import v1_bulk_routes
from services.gateway.v1_embeddings import v1_embedding_routes
from services.gateway.v1_explain import v1_explain_routes
from services.gateway.v1_search import v1_search_routes
from services.gateway.wiring import Gateway, connect
from shared.http import create_app, run
from shared.telemetry import REQUEST_ID_HEADER

_FORM_OVERHEAD = 64 * 1024
_DESCRIPTION = """
Find pictures by words, and words by pictures.

Where the gateway was given API keys, send yours as `Authorization: Bearer dk_...` or as `X-API-Key: dk_...`. Searches,
photos and models need one with the scope `read`. This page, `/health/*` and `/metrics` are open to everybody, keys or
not: it is the network that keeps strangers from the metrics.

Errors are [problem details](https://www.rfc-editor.org/rfc/rfc9457): `detail` says what was wrong, with which value,
and what to do. A 503 with `Retry-After` is worth asking again. Every answer carries an `X-Request-ID`, yours if you
sent one, under which all services log the request.
"""


def create(settings: GatewaySettings) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with connect(settings) as app.state.gateway:
            yield

    async def problems() -> list[str]:
        gateway: Gateway = app.state.gateway
        return await gateway.pairing.problems()

    app = create_app(
        "gateway",
        problems,
        max_body_bytes=settings.max_upload_bytes * 4 // 3 + _FORM_OVERHEAD,  # a picture in base64
        streamed=[BULK],
        title="Diptych",
        description=_DESCRIPTION,
        lifespan=lifespan,
    )
    app.exception_handler(RequestValidationError)(refuse)
    searches = Limit(settings.max_searches)
    searching, others = admitting(searches, drops=True), admitting(Limit(settings.max_in_flight))
    asked_most = search_routes(settings, searching)
    v1 = [v1_search_routes(settings, searching), v1_explain_routes(searching), v1_embedding_routes(searching)]
    # Routes are tried one after the other, and those that are included once more: these are asked for most.
    app.router.routes[:0] = asked_most.routes
    app.include_router(photo_routes(settings, others))
    app.include_router(v1_bulk_routes(settings, others))
    app.include_router(collection_routes(settings, others))
    for router in v1:
        app.include_router(router)
    app.include_router(model_routes())

    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("/docs")

    app.add_middleware(
        RefusingMiddleware,
        limit=searches,
        paths=[route.path for router in (asked_most, *v1) for route in router.routes if isinstance(route, APIRoute)],
    )
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["*"],
            expose_headers=[REQUEST_ID_HEADER, "Retry-After"],
        )
    return app


def main() -> None:
    settings = GatewaySettings()
    run("gateway", create(settings), settings)
