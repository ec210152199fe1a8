"""The parts that a snapshot searches side by side: exact ones, and sealed ones that look at few vectors."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from shared.collections import exact, kinds
from shared.collections.exact import Bool, Float32, Found, Index

_FEW = 10_000  # of so many, exact search is quick, and finds all
_MOST = 8  # exact search is also as quick as fetching one vector in so many
_AT_ONCE = 65_536  # candidates
_REMEMBERED = 16_384  # candidates, some pages each, before what was read of the file is let go


class Shard(Protocol):
    def __len__(self) -> int:
        """How many rows it has, counted from 0."""

    def search(self, queries: Float32, k: int, among: Bool | None) -> Found:
        """Each query's ``k' = min(k, n)`` of the n rows that may be found: scores, falling, and rows, both (B, k')."""


class FlatShard:
    """Exact search over vectors (n, D) in memory."""

    def __init__(self, vectors: Float32) -> None:
        self._vectors = vectors

    def __len__(self) -> int:
        return len(self._vectors)

    def search(self, queries: Float32, k: int, among: Bool | None) -> Found:
        return exact.nearest(self._vectors, queries, k, among)


class SealedShard:
    """A FAISS index that proposes candidates, and the vectors (n, D), mapped from a file, that say which are best.

    What it leaves out of the answer is all that is approximate: scores are exact, and there are k results where there
    are k to be found.
    """

    def __init__(self, index: Index, vectors: Float32, effort: int, refine: int) -> None:
        """``effort`` is nprobe or efSearch, for ten results; ``refine`` candidates are read for each result."""
        self._index = index
        self._vectors = vectors
        self._effort = effort
        self._refine = refine
        self._read = 0

    def __len__(self) -> int:
        return len(self._vectors)

    def search(self, queries: Float32, k: int, among: Bool | None) -> Found:
        count = len(self) if among is None else int(np.count_nonzero(among))
        k = min(k, count)
        fetched = k * self._refine
        # With fewer rows to be found, or more results wanted, as much more must be looked at.
        effort = self._effort * (len(self) / max(1, count)) * max(1.0, k / 10) ** 0.5
        effort = min(round(effort), kinds.most_effort(self._index))
        if count <= _FEW or fetched * _MOST >= count:
            return exact.nearest(self._vectors, queries, k, among)
        if count == len(self):
            among = None
        scores, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        step = max(1, _AT_ONCE // fetched)
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            found = kinds.nearest(self._index, queries[part], fetched, effort, among)
            scores[part], rows[part] = exact.best(exact.products(self._vectors, queries[part], found), found, k)
        self._read += len(queries) * fetched
        if self._read > _REMEMBERED:
            self._read = 0
            exact.forget(self._vectors)
        short = np.flatnonzero(np.isneginf(scores[:, -1]))
        if len(short):
            scores[short], rows[short] = exact.nearest(self._vectors, queries[short], k, among)
        return scores, rows
