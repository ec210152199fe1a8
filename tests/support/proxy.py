"""A TCP proxy that stands between two services and does to them what networks and failing machines do."""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Literal

Fault = Literal["none", "silent", "slow", "reset", "cut", "garbage", "spoilt"]
_SLOW_SECONDS = 0.5


class Proxy:
    """Listens on a port of its own and passes on to ``target``, a port of this machine, until ``fault`` says else:

    ``silent``: nothing is passed on any more, and nothing closed; ``slow``: every answer comes half a second late;
    ``reset``: connections are broken as soon as something is asked; ``cut``: answers end in their middle; ``garbage``:
    the answer is random bytes; ``spoilt``: it has its HTTP head, but a body of random bytes.

    A new fault concerns open connections too.
    """

    def __init__(self, target: int = 0) -> None:
        self.target = target
        self.fault: Fault = "none"
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                caller, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(caller,), daemon=True).start()

    def _serve(self, caller: socket.socket) -> None:
        try:
            service = socket.create_connection(("127.0.0.1", self.target))
        except OSError:
            caller.close()
            return
        threading.Thread(target=self._answers, args=(service, caller), daemon=True).start()
        with suppress(OSError):
            while data := caller.recv(65536):
                if self.fault == "silent":
                    continue
                if self.fault == "reset":
                    break
                service.sendall(data)
        for one in (caller, service):
            _close(one)

    def _answers(self, service: socket.socket, caller: socket.socket) -> None:
        with suppress(OSError):
            while data := service.recv(65536):
                if self.fault == "silent":
                    continue
                if self.fault == "slow":
                    time.sleep(_SLOW_SECONDS)
                elif self.fault == "garbage":
                    data = os.urandom(len(data))
                elif self.fault == "spoilt":
                    head, end, body = data.partition(b"\r\n\r\n")
                    data = head + end + os.urandom(len(body)) if end else os.urandom(len(data))
                elif self.fault == "cut":
                    caller.sendall(data[: len(data) // 2])
                    break
                caller.sendall(data)
        for one in (caller, service):
            _close(one)


def _close(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
