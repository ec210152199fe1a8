"""An immutable set of vectors, searched exactly, in shards side by side; a change makes the next one."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
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

    def __init__(self, ids: Sequence[str], vectors: Float32, shard_size: int = SHARD_SIZE) -> None:
        """``vectors`` (n, D) float32, row i belonging to ``ids[i]``."""
        self.dim = vectors.shape[1]
        self._ids = list(ids)
        self._rows = len(vectors)
        self._removed: Bool | None = None
        self._starts: list[int] = []
        self._shards: list[faiss.IndexFlatIP] = []
        for start in range(0, len(vectors), shard_size):
            self._seal(start, vectors[start : start + shard_size])
        self._tail, self._sealed = _Tail(self.dim, 0), len(vectors)
        self._pool: ThreadPoolExecutor | None = None

    def _seal(self, start: int, vectors: Float32) -> None:
        shard = faiss.IndexFlatIP(self.dim)
        shard.add(np.ascontiguousarray(vectors))
        self._starts.append(start)
        self._shards.append(shard)

    def __len__(self) -> int:
        """How many vectors can be found."""
        return self._rows if self._removed is None else self._rows - int(np.count_nonzero(self._removed))

    @property
    def rows(self) -> int:
        """How many there have been: the row of the next."""
        return self._rows

    @property
    def ids(self) -> list[str]:
        """Of the vectors that can be found, in the order of their rows."""
        return [
            one for row, one in enumerate(self._ids[: self._rows]) if self._removed is None or not self._removed[row]
        ]

    def id(self, row: int) -> str:
        return self._ids[row]

    def changed(self, ids: Sequence[str], vectors: Float32, removed: Sequence[int] = ()) -> Snapshot:
        """The next snapshot: with ``vectors`` (n, D) in new rows, and without the rows ``removed``. To be called by one
        writer at a time; every :data:`TAIL_SIZE` vectors become a shard of FAISS's."""
        after = Snapshot((), np.empty((0, self.dim), np.float32))
        after._ids = self._ids if len(self._ids) == self._rows else self._ids[: self._rows]
        after._ids.extend(ids)
        after._rows = self._rows + len(vectors)
        after._starts, after._shards, after._sealed = list(self._starts), list(self._shards), self._sealed
        after._tail = self._tail.appended(self._rows - self._sealed, vectors)
        if after._rows - after._sealed >= TAIL_SIZE:
            after._seal(after._sealed, after._tail.first(after._rows - after._sealed))
            after._tail, after._sealed = _Tail(self.dim, 0), after._rows
        if self._removed is not None or len(removed):
            after._removed = np.zeros(after._rows, np.bool_)
            if self._removed is not None:
                after._removed[: self._rows] = self._removed
            after._removed[list(removed)] = True
        after._pool = self._pool
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
        if among is not None and self._removed is not None:
            among = among & ~self._removed
        elif among is None and self._removed is not None:
            among = ~self._removed
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
            scores, rows = _in_shard(shard, queries, k, None if among is None else among[start : start + shard.ntotal])
            return scores, rows + start

        places = range(len(self._shards))
        if len(places) > 1 and self._pool is None:
            self._pool = ThreadPoolExecutor(thread_name_prefix="shard")
        parts = list(map(one, places) if self._pool is None else self._pool.map(one, places))
        if self._rows > self._sealed:
            tail = self._tail.first(self._rows - self._sealed)
            scores, rows = _in_tail(tail, queries, k, None if among is None else among[self._sealed :])
            parts.append((scores, rows + self._sealed))
        if len(parts) == 1 and not self._shards:
            return parts[0]
        scores = np.concatenate([part[0] for part in parts], axis=1)
        rows = np.concatenate([part[1] for part in parts], axis=1)
        return _sorted(scores, rows, k)


def _in_shard(shard: faiss.IndexFlatIP, queries: Float32, k: int, among: Bool | None) -> tuple[Float32, Int64]:
    if among is None or among.all():
        found: tuple[Float32, Int64] = shard.search(queries, min(k, shard.ntotal))
        return found
    count = int(np.count_nonzero(among))
    if count == 0:
        return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    # FAISS's own annotations are those of the C++ functions that its Python wrappers hide.
    selector = faiss.IDSelectorBitmap(np.packbits(among, bitorder="little"))  # type: ignore[call-arg,arg-type]
    found = shard.search(queries, min(k, count), params=faiss.SearchParameters(sel=selector))  # type: ignore[call-arg]
    return found


def _in_tail(tail: Float32, queries: Float32, k: int, among: Bool | None) -> tuple[Float32, Int64]:
    rows = np.arange(len(tail)) if among is None else np.flatnonzero(among)
    scores = queries @ (tail if among is None else tail[rows]).T
    if k < len(rows):
        best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        scores, chosen = np.take_along_axis(scores, best, axis=1), rows[best]
    else:
        chosen = np.broadcast_to(rows, scores.shape)
    return _sorted(scores, chosen, k)


def _sorted(scores: Float32, rows: Int64, k: int) -> tuple[Float32, Int64]:
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)
