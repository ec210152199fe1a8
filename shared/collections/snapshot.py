"""An immutable set of vectors, searched in shards side by side; a change makes the next one."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy

import numpy as np
import numpy.typing as npt

from shared.collections import exact
from shared.collections.exact import Bool, Float32, Int64
from shared.collections.shards import FlatShard, Shard

Ids = npt.NDArray[np.bytes_]  # UTF-8, and no object of Python's for each
SHARD_SIZE = 250_000
TAIL_SIZE = 32_768
_LONGEST = 1e3


class _Tail:
    """Room for vectors that came after the shards were made. Rows that a snapshot has are never written again, so what
    one writer appends behind them disturbs no reader."""

    def __init__(self, dim: int, room: int) -> None:
        self._array = np.empty((room, dim), np.float32)
        self._used = 0

    def appended(self, known: int, vectors: Float32) -> _Tail:
        """The room that holds its first ``known`` rows and then ``vectors``: this one if they fit behind them."""
        tail, end = self, known + len(vectors)
        if self._used != known or end > len(self._array):
            tail = _Tail(self._array.shape[1], max(256, 2 * end))
            tail._array[:known] = self._array[:known]
        tail._array[known:end] = vectors
        tail._used = end
        return tail

    def first(self, rows: int) -> Float32:
        return self._array[:rows]


class Snapshot:
    """Inner-product search over unit vectors. Safe for any number of readers; never changed after it is made.

    Each vector has a row, counted from 0 in the order in which they came; a removed one keeps its row and is not found.
    """

    def __init__(self, ids: Sequence[str] | Ids, vectors: Float32, shard_size: int = SHARD_SIZE) -> None:
        """``vectors`` (n, D) float32, row i belonging to ``ids[i]``; they are searched exactly."""
        starts = range(0, len(vectors), shard_size)
        shards = [FlatShard(np.ascontiguousarray(vectors[start : start + shard_size])) for start in starts]
        self._begin(as_ids(ids), shards, vectors.shape[1])

    @classmethod
    def sealed(cls, ids: Ids, shard: Shard, dim: int) -> Snapshot:
        """Searched as ``shard`` does it, until something changes."""
        made = cls.__new__(cls)
        made._begin(ids, [shard], dim)
        return made

    def _begin(self, ids: Ids, shards: Sequence[Shard], dim: int) -> None:
        self.dim = dim
        self._first = ids  # those of the shards; of what came later:
        self._later: list[str] = []
        self._rows = len(ids)
        self._found: Bool | None = None  # true where a row has not been removed
        self._shards = list(shards)
        self._starts = [0, *np.cumsum([len(shard) for shard in shards])[:-1].tolist()] if shards else []
        self._tail, self._sealed = _Tail(dim, 0), len(ids)
        self._pool: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        """How many vectors can be found."""
        return self._rows if self._found is None else int(np.count_nonzero(self._found))

    @property
    def rows(self) -> int:
        """How many there have been: the row of the next."""
        return self._rows

    @property
    def ids(self) -> list[str]:
        """Of the vectors that can be found, in the order of their rows."""
        return [self.id(row) for row in range(self._rows) if self._found is None or self._found[row]]

    def id(self, row: int) -> str:
        first = len(self._first)
        return self._first[row].decode() if row < first else self._later[row - first]

    def changed(self, ids: Sequence[str], vectors: Float32, removed: Sequence[int] = ()) -> Snapshot:
        """The next snapshot: with ``vectors`` (n, D) in new rows, and without the rows ``removed``. To be called by one
        writer at a time; every :data:`TAIL_SIZE` vectors become a shard of FAISS's."""
        after = copy(self)
        later = self._rows - len(self._first)
        after._later = self._later if len(self._later) == later else self._later[:later]
        after._later.extend(ids)
        after._rows = self._rows + len(vectors)
        after._tail = self._tail.appended(self._rows - self._sealed, vectors)
        if after._rows - after._sealed >= TAIL_SIZE:
            after._shards = [*self._shards, FlatShard(after._tail.first(after._rows - after._sealed).copy())]
            after._starts = [*self._starts, after._sealed]
            after._tail, after._sealed = _Tail(self.dim, 0), after._rows
        if self._found is not None or len(removed):
            after._found = np.ones(after._rows, np.bool_)
            if self._found is not None:
                after._found[: self._rows] = self._found
            after._found[list(removed)] = False
        return after

    def search(self, queries: Float32, k: int, among: Bool | None = None) -> tuple[Float32, Int64]:
        """Each query's best ``k' = min(k, n)``: cosines (B, k') in falling order, and rows (B, k'); ties by row.

        ``queries`` (B, D), of about unit length; ``among`` (rows,), true where a row may be found, leaves n of them.
        Raises ValueError for k < 1, another dimension, NaN, infinity, or vectors so long that products would overflow.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise ValueError(f"queries are {queries.shape}; this index has {self.dim} dimensions")
        if not (np.abs(queries) <= _LONGEST).all():  # catches NaN too
            raise ValueError(f"a query holds NaN, infinity or values over {_LONGEST:g}; unit vectors are needed")
        if among is None:
            among = self._found
        elif self._found is not None:
            among = among & self._found
        total = self._rows if among is None else int(np.count_nonzero(among))
        k = min(k, total)
        queries = np.ascontiguousarray(queries, np.float32)
        if k == 0 or not len(queries):
            return np.zeros((len(queries), k), np.float32), np.zeros((len(queries), k), np.int64)
        # One more than asked for shows whether the last place is shared. FAISS picks any of those that share it, so
        # such a query (equal captions are common) is asked again until all of them are there to choose from.
        scores, rows = self._nearest(queries, fetched := min(k + 1, total), among)
        shared = (scores[:, k - 1] == scores[:, -1]) & (fetched > k)
        scores, rows = scores[:, :k], rows[:, :k]
        for query in np.flatnonzero(shared):
            scores[query], rows[query] = self._with_ties(queries[query : query + 1], k, total, among)
        return scores, rows

    def _with_ties(self, query: Float32, k: int, total: int, among: Bool | None) -> tuple[Float32, Int64]:
        """The best ``k`` (k,) of one query (1, D), whose last place several rows share."""
        fetched = k
        while True:
            fetched = min(4 * fetched, total)
            scores, rows = self._nearest(query, fetched, among)
            if fetched == total or scores[0, -1] < scores[0, k - 1]:
                return scores[0, :k], rows[0, :k]

    def _nearest(self, queries: Float32, k: int, among: Bool | None) -> tuple[Float32, Int64]:
        """The best ``k <= n`` of all shards and the tail, sorted by score and row."""

        def one(place: int) -> tuple[Float32, Int64]:
            start, shard = self._starts[place], self._shards[place]
            scores, rows = shard.search(queries, k, None if among is None else among[start : start + len(shard)])
            return scores, rows + start

        places = range(len(self._shards))
        if len(places) > 1 and self._pool is None:
            self._pool = ThreadPoolExecutor(thread_name_prefix="shard")
        parts = list(map(one, places) if self._pool is None else self._pool.map(one, places))
        if self._rows > self._sealed:
            tail = self._tail.first(self._rows - self._sealed)
            scores, rows = exact.in_rows(tail, queries, k, None if among is None else among[self._sealed :])
            parts.append((scores, rows + self._sealed))
        if len(parts) == 1 and not self._shards:
            return parts[0]
        scores = np.concatenate([part[0] for part in parts], axis=1)
        rows = np.concatenate([part[1] for part in parts], axis=1)
        return exact.best(scores, rows, k)


def as_ids(ids: Sequence[str] | Ids) -> Ids:
    if isinstance(ids, np.ndarray):
        return ids
    return np.array([one.encode() for one in ids], np.bytes_)
