"""Searches that wait at the same time share one call of FAISS, which reads the vectors once for all of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from prometheus_client import Histogram

from shared.collections import VectorCollection
from shared.collections.exact import Float32

QUERIES = Histogram(
    "diptych_index_batch_queries",
    "Queries that shared one call of FAISS.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)
Found = tuple[Float32, list[list[str]]]


@dataclass(frozen=True)
class _Waiting:
    queries: Float32
    k: int
    done: asyncio.Future[Found]


class Batches:
    """One call at a time for each collection. One that comes while there is none is made at once; those that come
    meanwhile make up the next, ``most`` queries at the most, or one request's when those are more."""

    def __init__(self, most: int = 256) -> None:
        self._most = most
        self._queues: dict[VectorCollection, deque[_Waiting]] = {}  # of those collections that are being searched
        self._workers: set[asyncio.Task[None]] = set()

    async def search(self, collection: VectorCollection, queries: Float32, k: int) -> Found:
        """As :meth:`VectorCollection.search` answers ``queries`` (B, D), and raises."""
        one = _Waiting(queries, k, asyncio.get_running_loop().create_future())
        if collection in self._queues:
            self._queues[collection].append(one)
        else:
            self._queues[collection] = deque([one])
            worker = asyncio.create_task(self._work(collection))
            self._workers.add(worker)  # or it could be collected while it runs
            worker.add_done_callback(self._workers.discard)
        return await one.done

    async def _work(self, collection: VectorCollection) -> None:
        queue = self._queues[collection]
        while together := self._taken(queue):
            QUERIES.observe(sum(len(one.queries) for one in together))
            for one, answer in zip(together, await asyncio.to_thread(_answers, collection, together), strict=True):
                if one.done.cancelled():
                    continue
                if isinstance(answer, Exception):
                    one.done.set_exception(answer)
                else:
                    one.done.set_result(answer)
        del self._queues[collection]

    def _taken(self, queue: deque[_Waiting]) -> list[_Waiting]:
        """The first, and those after it that want as many results; who has gone is passed over."""
        together: list[_Waiting] = []
        others: list[_Waiting] = []
        size = 0
        while queue:
            one = queue.popleft()
            if one.done.cancelled():
                continue
            if not together or (one.k == together[0].k and size + len(one.queries) <= self._most):
                together.append(one)
                size += len(one.queries)
            else:
                others.append(one)
        queue.extend(others)
        return together


def _answers(collection: VectorCollection, together: Sequence[_Waiting]) -> list[Found | Exception]:
    try:
        scores, ids = collection.search(np.concatenate([one.queries for one in together]), together[0].k)
    except Exception as error:
        if len(together) == 1:
            return [error]
        return [answer for one in together for answer in _answers(collection, [one])]  # one's fault is not the others'
    ends = np.cumsum([len(one.queries) for one in together])
    return [
        (scores[end - len(one.queries) : end], ids[end - len(one.queries) : end])
        for one, end in zip(together, ends, strict=True)
    ]
