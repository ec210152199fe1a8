"""An immutable set of vectors, searched exactly, in shards side by side."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
SHARD_SIZE = 250_000
_LONGEST = 1e3


class Snapshot:
    """Inner-product search over unit vectors. Safe for any number of readers; never changed after it is made."""

    def __init__(self, ids: Sequence[str], vectors: Float32, shard_size: int = SHARD_SIZE) -> None:
        """``vectors`` (n, D) float32, row i belonging to ``ids[i]``."""
        self.ids = list(ids)
        self.dim = vectors.shape[1]
        self._starts = list(range(0, len(vectors), shard_size))
        self._shards = []
        for start in self._starts:
            shard = faiss.IndexFlatIP(self.dim)
            shard.add(np.ascontiguousarray(vectors[start : start + shard_size]))
            self._shards.append(shard)
        self._pool = ThreadPoolExecutor(len(self._shards)) if len(self._shards) > 1 else None

    def __len__(self) -> int:
        return len(self.ids)

    def search(self, queries: Float32, k: int) -> tuple[Float32, Int64]:
        """Each query's best ``k' = min(k, n)``: cosines (B, k') in falling order, and rows (B, k'); ties by row.

        ``queries`` (B, D), of about unit length. Raises ValueError for k < 1, another dimension, NaN, infinity, or
        vectors so long that products would overflow.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise ValueError(f"queries are {queries.shape}; this index has {self.dim} dimensions")
        if not (np.abs(queries) <= _LONGEST).all():  # catches NaN too
            raise ValueError(f"a query holds NaN, infinity or values over {_LONGEST:g}; unit vectors are needed")
        k = min(k, len(self))
        queries = np.ascontiguousarray(queries, np.float32)
        if k == 0 or not len(queries):
            return np.zeros((len(queries), k), np.float32), np.zeros((len(queries), k), np.int64)
        # One more than asked for shows whether the last place is shared. FAISS picks any of those that share it, so
        # such a query (equal captions are common) is asked again until all of them are there to choose from.
        scores, rows = self._nearest(queries, fetched := min(k + 1, len(self)))
        shared = (scores[:, k - 1] == scores[:, -1]) & (fetched > k)
        scores, rows = scores[:, :k], rows[:, :k]
        for query in np.flatnonzero(shared):
            scores[query], rows[query] = self._with_ties(queries[query : query + 1], k)
        return scores, rows

    def _with_ties(self, query: Float32, k: int) -> tuple[Float32, Int64]:
        """The best ``k`` (k,) of one query (1, D), whose last place several rows share."""
        fetched = k
        while True:
            fetched = min(4 * fetched, len(self))
            scores, rows = self._nearest(query, fetched)
            if fetched == len(self) or scores[0, -1] < scores[0, k - 1]:
                return scores[0, :k], rows[0, :k]

    def _nearest(self, queries: Float32, k: int) -> tuple[Float32, Int64]:
        """The best ``k <= n`` of all shards, sorted by score and row."""

        def one(place: int) -> tuple[Float32, Int64]:
            shard = self._shards[place]
            scores, rows = shard.search(queries, min(k, shard.ntotal))
            return scores, rows + self._starts[place]

        places = range(len(self._shards))
        parts = list(map(one, places) if self._pool is None else self._pool.map(one, places))
        scores = np.concatenate([part[0] for part in parts], axis=1)
        rows = np.concatenate([part[1] for part in parts], axis=1)
        order = np.lexsort((rows, -scores), axis=1)[:, :k]
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)
