"""What was asked for a moment ago, kept in this process: an answer that many ask for costs no way to Redis."""

from __future__ import annotations

import time
from collections import OrderedDict


class Hot:
    """Byte strings by key, ``max_bytes`` of them in all, each for ``seconds``; the least lately used goes first."""

    def __init__(self, *, max_bytes: int, seconds: float) -> None:
        self._room = max_bytes
        self._seconds = seconds
        self._entries: OrderedDict[str, tuple[float, bytes]] = OrderedDict()

    def get(self, key: str) -> bytes | None:
        if (entry := self._entries.get(key)) is None:
            return None
        until, value = entry
        if time.monotonic() >= until:
            self.drop(key)
            return None
        self._entries.move_to_end(key)
        return value

    def put(self, key: str, value: bytes) -> None:
        self.drop(key)
        self._entries[key] = (time.monotonic() + self._seconds, value)
        self._room -= _size(key, value)
        while self._room < 0:
            self.drop(next(iter(self._entries)))

    def drop(self, key: str) -> None:
        if (entry := self._entries.pop(key, None)) is not None:
            self._room += _size(key, entry[1])


def _size(key: str, value: bytes) -> int:
    return len(key) + len(value)
