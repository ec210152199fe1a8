"""What was computed before, kept in Redis for a while. Without Redis all is computed again, and nothing fails."""

from __future__ import annotations

from typing import cast

from redis.asyncio import RedisCluster
from redis.exceptions import ResponseError

from services.gateway import metrics
from services.gateway.hot import Hot
from services.gateway.redis_server import FAULTS, RedisServer
from shared.telemetry import log

# Names the format of what is stored: a release that stores it differently takes another one.
_PREFIX = "diptych:1:"


class Cache:
    """Byte strings by key, in named parts ("results", "embeddings", ...), each counted apart.

    What came from Redis a moment ago is answered by ``hot``, as long as Redis is there. A key says all that a value
    depends on, the change of the collection included, so that it can be old but not wrong.

    Bounds: values over ``max_value_bytes`` are not stored, every entry expires after ``ttl_seconds``, and the total is
    Redis's own ``maxmemory`` to hold.
    """

    def __init__(self, redis: RedisServer, hot: Hot, *, ttl_seconds: int, max_value_bytes: int) -> None:
        self._redis = redis
        self._hot = hot
        self._ttl_seconds = ttl_seconds
        self._max_value_bytes = max_value_bytes

    async def get(self, part: str, key: str) -> bytes | None:
        """What was stored, or None."""
        return (await self.get_each((part, key)))[0]

    async def get_each(self, *wanted: tuple[str, str]) -> list[bytes | None]:
        """What was stored by each part and key, or None, in one way to Redis. When there is
        the first, nobody needs the others: they are not counted, and may be None."""
        if (client := self._redis.client) is None:
            return [None] * len(wanted)
        names = [_name(*one) for one in wanted]
        if (kept := self._hot.get(names[0])) is not None:
            metrics.cache(wanted[0][0], "hit").inc()
            return [kept] + [None] * (len(wanted) - 1)
        try:
            # Of a cluster each key may be on another server: each is asked for its own.
            found = client.mget_nonatomic(names) if isinstance(client, RedisCluster) else client.mget(names)
            values = cast(list[bytes | None], await found)  # bytes, without decode_responses
        except FAULTS as error:
            self._redis.lost(str(error))
            return [None] * len(wanted)
        if values[0] is not None:
            self._hot.put(names[0], values[0])
            wanted = wanted[:1]  # nobody needed the others
        for (part, _), value in zip(wanted, values, strict=False):
            metrics.cache(part, "miss" if value is None else "hit").inc()
        return values

    async def put(self, part: str, key: str, value: bytes) -> None:
        await self.put_each((part, key, value))

    async def put_each(self, *entries: tuple[str, str, bytes]) -> None:
        """Store each value by its part and key, in one way to Redis."""
        if (client := self._redis.client) is None:
            return
        pipeline = client.pipeline(transaction=False)
        for part, key, value in entries:
            if len(value) <= self._max_value_bytes:
                name = _name(part, key)
                self._hot.drop(name)
                pipeline.set(name, value, ex=self._ttl_seconds)
        try:
            await pipeline.execute()
        except ResponseError as error:
            # Redis is there and will not take this: it is full and told not to evict, or a read-only replica.
            log.debug("cache refused", reason=str(error))
        except FAULTS as error:
            self._redis.lost(str(error))


def _name(part: str, key: str) -> str:
    return f"{_PREFIX}{part}:{key}"
