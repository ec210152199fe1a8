"""The gateway's Redis, and whether it is there: nobody fails, or waits a second time, because it is away."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from pydantic import SecretStr
from redis.exceptions import RedisError

from services.gateway import metrics, redis_urls
from services.gateway.redis_urls import Client
from shared.telemetry import log

# The last: a cluster's client that learns of another server closes connections which others are just opening.
FAULTS = (RedisError, OSError, AttributeError)


class RedisServer:
    """A server that fails is left alone until a ``PING`` every ``retry_seconds`` is answered again."""

    def __init__(
        self,
        url: str | None,
        *,
        timeout_seconds: float,
        retry_seconds: float,
        max_connections: int,
        password: SecretStr | None = None,
        sentinel_password: SecretStr | None = None,
        ca_file: Path | None = None,
    ) -> None:
        self._retry_seconds = retry_seconds
        self._away = True
        self._search: asyncio.Task[None] | None = None
        self._redis: Client | None = None
        if url is not None:
            self._redis = redis_urls.client(
                url,
                password=password.get_secret_value() if password else None,
                sentinel_password=sentinel_password.get_secret_value() if sentinel_password else None,
                ca_file=ca_file,
                timeout_seconds=timeout_seconds,
                max_connections=max_connections,
            )

    @property
    def client(self) -> Client | None:
        """None while it is away, and always when there is none."""
        return None if self._away else self._redis

    @property
    def known(self) -> Client | None:
        """Whether or not it is there; None when there is none."""
        return self._redis

    async def open(self) -> None:
        """Look for it; if it is not there, go on looking in the background."""
        if self._redis is not None and not await self._found(self._redis):
            self.lost("it does not answer")

    async def close(self) -> None:
        if self._search is not None:
            self._search.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._search
        if self._redis is not None:
            await redis_urls.close(self._redis)

    def lost(self, reason: str) -> None:
        """What whoever used ``client`` tells when it failed."""
        self._away = True
        metrics.NEIGHBOUR_UP.labels("redis").set(0)
        if self._redis is not None and (self._search is None or self._search.done()):
            log.warning("redis away", reason=reason)
            self._search = asyncio.create_task(self._look_for(self._redis))

    async def _look_for(self, redis: Client) -> None:
        # At once: a single answer that came late, because this machine is busy, is no reason to go without for long.
        while not await self._found(redis):  # noqa: ASYNC110  (what is waited for is another process)
            await asyncio.sleep(self._retry_seconds)
        log.info("redis back")

    async def _found(self, redis: Client) -> bool:
        try:
            await redis.ping()
        except FAULTS:
            return False
        self._away = False
        metrics.NEIGHBOUR_UP.labels("redis").set(1)
        return True
