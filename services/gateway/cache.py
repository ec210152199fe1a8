"""What was computed before, kept in Redis for a while. Without Redis all is computed again, and nothing fails."""

from __future__ import annotations

from redis.exceptions import RedisError, ResponseError

from services.gateway import metrics
from services.gateway.hot import Hot
from services.gateway.redis_server import RedisServer
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
        if (client := self._redis.client) is None:
            return None
        name = f"{_PREFIX}{part}:{key}"
        if (kept := self._hot.get(name)) is not None:
            metrics.cache(part, "hit").inc()
            return kept
        try:
            value = await client.get(name)
        except (RedisError, OSError) as error:
            self._redis.lost(str(error))
            return None
        metrics.cache(part, "miss" if value is None else "hit").inc()
        assert value is None or isinstance(value, bytes)  # as it is without decode_responses
        if value is not None:
            self._hot.put(name, value)
        return value

    async def put(self, part: str, key: str, value: bytes) -> None:
        if (client := self._redis.client) is None or len(value) > self._max_value_bytes:
            return
        name = f"{_PREFIX}{part}:{key}"
        self._hot.drop(name)
        try:
            await client.set(name, value, ex=self._ttl_seconds)
        except ResponseError as error:
            # Redis is there and will not take this: it is full and told not to evict, or a read-only replica.
            log.debug("cache refused", reason=str(error))
        except (RedisError, OSError) as error:
            self._redis.lost(str(error))
