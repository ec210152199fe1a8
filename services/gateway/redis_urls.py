"""Clients for what a Redis URL names: one server, a cluster, or whatever sentinels say is the primary."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff

Client = Redis | RedisCluster

FORMS = (
    "redis://host:port/database, redis+cluster://host:port,host:port or redis+sentinel://host:port,host:port/service; "
    "rediss instead of redis for TLS"
)
_ONE = ("redis", "rediss", "unix")
_PORTS = {"cluster": 6379, "sentinel": 26379}


class RedisUrlError(ValueError):
    """A URL of Redis that cannot be used. Says why, without the password in it."""


@dataclass(frozen=True)
class _Many:
    """What a URL says of a cluster or of sentinels, whose ``service`` is wanted."""

    kind: str
    tls: bool
    hosts: list[tuple[str, int]]
    service: str
    username: str | None
    password: str | None = field(repr=False)


def check(url: str) -> None:
    """Raises :class:`RedisUrlError`."""
    _parsed(url)


def _parsed(url: str) -> _Many | None:
    """None for one server, whose URL redis-py reads."""
    scheme, found, rest = url.partition("://")
    if not found:
        raise RedisUrlError(f"it has no scheme: write {FORMS}")  # what is before a colon may be a password
    base, _, kind = scheme.partition("+")
    if scheme in _ONE:
        if "," in urlsplit(url).netloc.rpartition("@")[2]:
            raise RedisUrlError(f"several hosts for one server: write {base}+cluster:// or {base}+sentinel://")
        try:
            parse_url(url)
        except ValueError as error:
            raise RedisUrlError(str(error)) from error
        return None
    if base not in ("redis", "rediss") or kind not in _PORTS:
        raise RedisUrlError(f"the scheme {scheme!r} is none of Redis: write {FORMS}")
    parts = urlsplit(f"//{rest}")
    login, _, places = parts.netloc.rpartition("@")
    username, _, password = (unquote(one) for one in login.partition(":"))
    hosts = [_host(place, _PORTS[kind]) for place in places.split(",")]
    path = parts.path.strip("/")
    if kind == "sentinel" and not path:
        raise RedisUrlError(f"no service is named: write {scheme}://host:port/SERVICE, as the sentinels call it")
    if kind == "cluster" and path not in ("", "0"):
        raise RedisUrlError(f"database {path!r} of a cluster, which has only 0: leave it out")
    if parts.query or parts.fragment:
        raise RedisUrlError("options after ? or # are for one server alone: leave them out")
    return _Many(kind, base == "rediss", hosts, path, username or None, password or None)


def _host(place: str, usual: int) -> tuple[str, int]:
    try:
        parsed = urlsplit(f"//{place}")
        host, port = parsed.hostname, parsed.port
    except ValueError as error:
        raise RedisUrlError(f"{place!r} is no host:port ({error})") from error
    if not host:
        raise RedisUrlError(f"{place!r} names no host: write {FORMS}")
    return host, usual if port is None else port


def client(
    url: str,
    *,
    password: str | None,
    sentinel_password: str | None,
    ca_file: Path | None,
    timeout_seconds: float,
    max_connections: int,
) -> Client:
    """A client that has not connected yet, and fails at once where it cannot. ``password`` is for a URL without one.
    Raises :class:`RedisUrlError`."""
    many = _parsed(url)
    common: dict[str, Any] = {"socket_connect_timeout": timeout_seconds, "socket_timeout": timeout_seconds}
    ca = {"ssl_ca_certs": str(ca_file)} if ca_file else {}
    once = Retry(NoBackoff(), 0)
    most: dict[str, Any] = {"max_connections": max_connections}
    if many is None:
        tls: dict[str, Any] = ca if url.startswith("rediss://") else {}
        return Redis.from_url(url, password=password, retry=once, **most, **common, **tls)
    tls = {"ssl": True, **ca} if many.tls else {}
    login: dict[str, Any] = {"username": many.username, "password": many.password or password}
    if many.kind == "sentinel":
        sentinel = {"password": sentinel_password, "retry": once, **common, **tls}
        found = Sentinel(  # type: ignore[no-untyped-call]
            many.hosts, sentinel_kwargs=sentinel, retry=once, **login, **common, **tls
        )
        primary: Redis = found.master_for(many.service, **most)
        return primary
    return RedisCluster(
        startup_nodes=[ClusterNode(host, port) for host, port in many.hosts],
        retry=Retry(NoBackoff(), 1),  # a slot that has moved is asked for where it is now
        require_full_coverage=False,
        **most,
        **login,
        **common,
        **tls,
    )


async def close(redis: Client) -> None:
    """With the connections to its sentinels, if it has any."""
    await redis.aclose()
    if isinstance(redis, Redis) and isinstance(redis.connection_pool, SentinelConnectionPool):
        for sentinel in redis.connection_pool.sentinel_manager.sentinels:
            await sentinel.aclose()
