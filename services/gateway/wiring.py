"""The gateway's parts, connected, and the bound on how much they are given to do at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import aiohttp
from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute

from services.gateway import metrics
from services.gateway.access import Access, Needs
from services.gateway.cache import Cache
from services.gateway.collection import Collection
from services.gateway.composed import Composed
from services.gateway.encoder import Encoder
from services.gateway.explaining import Explaining
from services.gateway.forms import form_handler
from services.gateway.hot import Hot
from services.gateway.neighbours import Index
from services.gateway.pairing import Pairing
from services.gateway.photos import Photos
from services.gateway.rates import Rates
from services.gateway.redis_server import RedisServer
from services.gateway.search import Search
from services.gateway.settings import GatewaySettings
from shared.http import INTERNAL_HEADER
from shared.problems import Problem

# Shorter than the five seconds after which uvicorn closes an idle connection: a request must not be sent into one that
# is just being closed.
_KEEP_ALIVE_SECONDS = 4.0


@dataclass(frozen=True)
class Gateway:
    access: Access
    pairing: Pairing
    search: Search
    photos: Photos
    collection: Collection
    encoder: Encoder
    composed: Composed
    explaining: Explaining


@asynccontextmanager
async def connect(settings: GatewaySettings) -> AsyncIterator[Gateway]:
    """Everything that lives as long as the service does."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_SECONDS)
    redis = RedisServer(
        settings.redis_url,
        password=settings.redis_password,
        sentinel_password=settings.redis_sentinel_password,
        ca_file=settings.redis_ca_file,
        timeout_seconds=settings.redis_timeout_seconds,
        retry_seconds=settings.redis_retry_seconds,
        max_connections=2 * settings.max_in_flight,
    )
    cache = Cache(
        redis,
        Hot(max_bytes=settings.cache_hot_bytes, seconds=settings.cache_hot_seconds),
        ttl_seconds=settings.cache_ttl_seconds,
        max_value_bytes=settings.cache_max_value_bytes,
    )
    access = Access(settings.api_keys, Rates(redis), poll_seconds=settings.poll_seconds)
    token = settings.internal_token
    shown = {} if token is None else {INTERNAL_HEADER: token.get_secret_value()}
    async with aiohttp.ClientSession(connector=connector, headers=shown, auto_decompress=False) as session:
        encoder = Encoder(
            session,
            settings.encoder_url,
            connect_seconds=settings.connect_seconds,
            embed_seconds=settings.embed_seconds,
            rerank_seconds=settings.rerank_seconds,
        )
        index = Index(
            session,
            settings.index_url,
            connect_seconds=settings.connect_seconds,
            search_seconds=settings.search_seconds,
        )
        pairing = Pairing(encoder, index, poll_seconds=settings.poll_seconds)
        search = Search(
            encoder, index, pairing, cache, rerank_depth=settings.rerank_depth, max_rerank=settings.max_rerank
        )
        photos = Photos(index, pairing, cache, sizes=settings.thumbnail_sizes)
        collection = Collection(encoder, index, pairing)
        composed = Composed(search, index, pairing, cache, rerank_depth=settings.rerank_depth)
        explaining = Explaining(encoder, index, pairing)
        await redis.open()
        watching = [
            asyncio.create_task(following)
            for following in (pairing.watch(), access.watch(), collection.follow(settings.poll_seconds))
        ]
        try:
            yield Gateway(access, pairing, search, photos, collection, encoder, composed, explaining)
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
            photos.close()
            await redis.close()


def of(request: Request) -> Gateway:
    """The gateway that answers this request."""
    gateway: Gateway = request.app.state.gateway
    return gateway


async def _connected(request: Request) -> Gateway:
    return of(request)


Connected = Annotated[Gateway, Depends(_connected)]


def admitting(limit: int) -> type[APIRoute]:
    """Routes of which at most ``limit`` requests are worked on at once, counted before a body is read.

    A request above that is refused at once with ``overloaded``: a queue would only make everybody late. What a route
    ``needs`` is asked for before the body, too, so that nobody uploads without a key.
    """
    in_flight = 0

    class AdmittedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = form_handler(self) or super().get_route_handler()
            needed = [asked.dependency for asked in self.dependencies if isinstance(asked.dependency, Needs)]

            async def admitted(request: Request) -> Response:
                nonlocal in_flight
                if in_flight >= limit:
                    metrics.REFUSED.inc()
                    raise Problem(
                        "overloaded", f"{limit} requests are being worked on; ask again in a second", retry_after=1
                    )
                in_flight += 1
                try:
                    for needs in needed:
                        await needs.check(request)
                    return await handle(request)
                finally:
                    in_flight -= 1

            return admitted

    return AdmittedRoute
