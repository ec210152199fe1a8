"""How often a caller asks: counted in Redis, so that replicas share the count, and in this process without one."""

from __future__ import annotations

import math
import time

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.storage.redis.redispy import RedispyBridge
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.exceptions import ResponseError

from services.gateway.redis_server import FAULTS, RedisServer
from services.gateway.redis_urls import Client
from shared.telemetry import log

_PREFIX = "diptych:1:rates"


class _Counters(RedisStorage):
    """Counters by the gateway's own client, be it of one server, a cluster (both counters of a caller are in one slot)
    or whatever is the primary."""

    def __init__(self, client: Client) -> None:
        self._client = client
        super().__init__("async+redis://", implementation="redispy", key_prefix=_PREFIX)

    def configure_bridge(self) -> None:
        assert isinstance(self.bridge, RedispyBridge)
        self.bridge.storage = self._client
        self.bridge.connection_getter = lambda _: self._client  # type: ignore[assignment,return-value]


class Rates:
    """Sliding windows of a minute, two counters for each caller. While Redis is away every replica counts by itself."""

    def __init__(self, redis: RedisServer) -> None:
        self._redis = redis
        self._here = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._shared = self._here
        if redis.known is not None:
            self._shared = SlidingWindowCounterRateLimiter(_Counters(redis.known))

    async def wait(self, caller: str, per_minute: int) -> int:
        """Seconds until the caller may ask again; 0 when it may now, and this counts."""
        if self._redis.client is not None:
            try:
                return await _wait(self._shared, caller, per_minute)
            except ResponseError as error:
                log.debug("redis refused to count", reason=str(error))  # it is full, or a read-only replica
            except FAULTS as error:
                self._redis.lost(str(error))
        return await _wait(self._here, caller, per_minute)


async def _wait(counted: SlidingWindowCounterRateLimiter, caller: str, per_minute: int) -> int:
    limit = RateLimitItemPerMinute(per_minute)
    if await counted.hit(limit, caller):
        return 0
    until = (await counted.get_window_stats(limit, caller)).reset_time
    return max(1, math.ceil(until - time.time()))
