"""Photos put into the index one by one while it is searched; then its answers against exact search, and its speed
against FAISS's at that size."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import threading
import time
from dataclasses import dataclass

import aiohttp
import numpy as np
import uvloop

from benchmarks.bench import Bench, Figures
from benchmarks.collection import token_features
from benchmarks.load import Outcome, Plan
from benchmarks.partners import raw_faiss
from benchmarks.questions import Search, unit_vectors
from diptych.programs import get_json
from shared import tokens, wire

ADDED, WRITERS, K = 100_000, 32, 10
_BASE = 1000
_QUERIES = 200
_MOST_SECONDS = 1200.0
_BATCHES = (1, 16, 64)


@dataclass(frozen=True)
class Added:
    """``number`` vectors were acknowledged, the first of :func:`unit_vectors` with the seed ``seed``."""

    number: int
    seconds: float
    failures: int
    seed: int = 99


def measure(bench: Bench, added: int = ADDED) -> Figures:
    bench.images = min(bench.images, _BASE)
    with bench.stack("index") as stack:
        url = stack.url("index")
        _, status = get_json(f"{url}/status")
        served = status["indexes"][0]
        dim, fingerprint = served["embedding_dim"], served["fingerprint"]
        outcomes: list[Outcome] = []
        stop = threading.Event()

        def search() -> None:
            while not stop.is_set():
                outcomes.append(bench.load(Plan(url, Search(dim, 1, K), seconds=5, concurrency=2, warm_up=0)))

        searching = threading.Thread(target=search)
        searching.start()
        try:
            put: Added = bench.alone(add, url, dim, fingerprint, added)
        finally:
            stop.set()
            searching.join()
        bench.say("comparing with exact search")
        recall = bench.alone(recall_at_k, url, dim, put, stack_base_vectors(bench))
        about: Figures = {"system": "index", "what": "search", "items": put.number + bench.images}
        points = [
            bench.point({**about, "batch": batch}, url, Search(dim, batch, K), callers, each=batch)
            for batch in _BATCHES
            for callers in (1, 4)
        ]
        memory = stack.memory()
    total = put.number + bench.images
    raw = bench.alone(raw_faiss.sweep, total, dim, _BATCHES, K, bench.seconds)
    searches = sum(len(one.latencies) for one in outcomes)
    return {
        "items": total,
        "added": put.number,
        "add_failures": put.failures,
        "added_per_second": round(put.number / put.seconds, 1),
        "searches_meanwhile": searches,
        "search_failures": sum((sum(one.failures.values()) + one.refused) for one in outcomes),
        "recall_at_10": recall,
        "points": [*points, *map(bench.note, raw)],
        "memory": memory,
    }


def stack_base_vectors(bench: Bench) -> str:
    """Where the published vectors lie."""
    (path,) = bench.state.store.glob("indexes/benchmark/1/items.sqlite")
    return str(path)


def add(url: str, dim: int, fingerprint: str, number: int) -> Added:
    """Put photos in with :data:`WRITERS` at a time, for at most seven minutes."""
    return uvloop.run(_add(url, dim, fingerprint, number))


async def _add(url: str, dim: int, fingerprint: str, number: int) -> Added:
    vectors = unit_vectors(Added.seed, number, dim)
    features = tokens.to_tensors([token_features(np.random.default_rng(0), 49, 128)])
    numbers = itertools.count()
    began, done, failures = time.monotonic(), 0, 0

    async def write(session: aiohttp.ClientSession) -> None:
        nonlocal done, failures
        while (n := next(numbers)) < number and time.monotonic() - began < _MOST_SECONDS:
            photo = np.frombuffer(hashlib.sha256(str(n).encode()).digest() * 4, np.uint8)
            tensors: dict[str, wire.Array] = {"photo": photo, "embedding": vectors[n : n + 1], **features}
            message = wire.pack(tensors, {"fingerprint": fingerprint, "name": f"{n}.jpg"})
            async with session.put(f"{url}/images/added-{n:06}", data=message) as answer:
                await answer.read()
            done += answer.status == 200
            failures += answer.status != 200

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(write(session) for _ in range(WRITERS)))
    return Added(done, time.monotonic() - began, failures)


def recall_at_k(url: str, dim: int, put: Added, published: str) -> float:
    """The share of the true ten nearest that the service finds, over 200 queries."""
    return uvloop.run(_recall(url, dim, put, published))


async def _recall(url: str, dim: int, put: Added, published: str) -> float:
    from pathlib import Path

    from shared.collections import items

    ids, base = items.vectors(items.connect(Path(published), writable=False), "images", dim)
    ids += [f"added-{n:06}" for n in range(put.number)]
    everything = np.concatenate([base, unit_vectors(Added.seed, ADDED, dim)[: put.number]])
    queries = unit_vectors(7, _QUERIES, dim)
    truth = np.argsort(-(queries @ everything.T), axis=1)[:, :K]
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/search?collection=images&k={K}", data=wire.pack({"queries": queries})) as answer,
    ):
        _, meta = wire.unpack(await answer.read())
    found = [{one["id"] for one in line} for line in meta["items"]]
    right = sum(len(got & {ids[row] for row in rows}) for got, rows in zip(found, truth, strict=True))
    return right / (K * _QUERIES)
