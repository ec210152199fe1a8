"""What was computed before, kept in Redis for a while. Without Redis all is computed again, and nothing fails."""

from __future__ import annotations

import asyncio
import contextlib

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from services.gateway import metrics
from shared.telemetry import log

# Names the format of what is stored: a release that stores it differently takes another one.
_PREFIX = "diptych:1:"


class Cache:
    """Byte strings by key, in named parts ("results", "embeddings", ...), each counted apart.

    Bounds: values over ``max_value_bytes`` are not stored, every entry expires after ``ttl_seconds``, and the total is
    Redis's own ``maxmemory`` to hold. A Redis that fails is left alone until a ``PING`` every ``retry_seconds`` is
    answered again, so while it is away requests do not even try it.
    """

    def __init__(
        self,
        url: str | None,
        *,
        ttl_seconds: int,
        max_value_bytes: int,
        timeout_seconds: float,
        retry_seconds: float,
        max_connections: int,
    ) -> None:
        self._ttl_seconds = ttl_seconds
        self._max_value_bytes = max_value_bytes
        self._retry_seconds = retry_seconds
        self._away = True
        self._search: asyncio.Task[None] | None = None
        self._redis: Redis | None = None
        if url is not None:
            self._redis = Redis.from_url(
                url,
                socket_connect_timeout=timeout_seconds,
                socket_timeout=timeout_seconds,
                retry=Retry(NoBackoff(), 0),
                max_connections=max_connections,
            )

    async def open(self) -> None:
        """Look for Redis; if it is not there, go on looking in the background."""
        if self._redis is not None and not await self._found(self._redis):
            self._lost(self._redis, "it does not answer")

    async def close(self) -> None:
        if self._search is not None:
            self._search.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._search
        if self._redis is not None:
            await self._redis.aclose()

    async def get(self, part: str, key: str) -> bytes | None:
        """What was stored, or None."""
        if self._redis is None or self._away:
            return None
        try:
            value = await self._redis.get(f"{_PREFIX}{part}:{key}")
        except (RedisError, OSError) as error:
            self._lost(self._redis, str(error))
            return None
        metrics.CACHE.labels(part, "miss" if value is None else "hit").inc()
        assert value is None or isinstance(value, bytes)  # as it is without decode_responses
        return value

    async def put(self, part: str, key: str, value: bytes) -> None:
        if self._redis is None or self._away or len(value) > self._max_value_bytes:
            return
        try:
            await self._redis.set(f"{_PREFIX}{part}:{key}", value, ex=self._ttl_seconds)
        except ResponseError as error:
            # Redis is there and will not take this: it is full and told not to evict, or a read-only replica.
            log.debug("cache refused", reason=str(error))
        except (RedisError, OSError) as error:
            self._lost(self._redis, str(error))

    def _lost(self, redis: Redis, reason: str) -> None:
        self._away = True
        metrics.NEIGHBOUR_UP.labels("redis").set(0)
        if self._search is None or self._search.done():
            log.warning("cache away", reason=reason)
            self._search = asyncio.create_task(self._look_for(redis))

    async def _look_for(self, redis: Redis) -> None:
        # At once: a single answer that came late, because this machine is busy, is no reason to go without for long.
        while not await self._found(redis):  # noqa: ASYNC110  (what is waited for is another process)
            await asyncio.sleep(self._retry_seconds)
        log.info("cache back")

    async def _found(self, redis: Redis) -> bool:
        try:
            await redis.ping()
        except (RedisError, OSError):
            return False
        self._away = False
        metrics.NEIGHBOUR_UP.labels("redis").set(1)
        return True
