"""The gateway's parts, connected."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

import aiohttp
from fastapi import Depends, Request

from services.gateway.access import Access
from services.gateway.cache import Cache
from services.gateway.collection import Collection
from services.gateway.composed import Composed
from services.gateway.encoder import Encoder
from services.gateway.explaining import Explaining
from services.gateway.hot import Hot
from services.gateway.neighbours import Index
from services.gateway.pairing import Pairing
from services.gateway.photos import Photos
from services.gateway.rates import Rates
from services.gateway.redis_server import RedisServer
from services.gateway.search import Search
from services.gateway.settings import GatewaySettings
from shared.http import INTERNAL_HEADER

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
        max_connections=2 * (settings.max_searches + settings.max_in_flight),
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
