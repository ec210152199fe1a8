"""Grows a collection that is being served, one photo a request, while it is searched all the time.

A searcher asks for a photo that was acknowledged, with its own vector, and has to find it first. In the end a search
has to give exactly what numpy finds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np

from shared import tokens, wire
from shared.artifacts import ArtifactStore, ModelManifest, Ref
from shared.collections import IndexBuilder, Item, Photo
from shared.tokens import TokenFeatures
from tests.support.kills import IndexService, picture
from tests.support.small import vectors, write_model

# The shipped model's.
DIM, TOKEN_DIM, TOKENS = 512, 128, 49
K, _BASE, _QUERIES = 10, 100, 200


@dataclass
class Growth:
    """``recall`` is that of the best ten at the end; memory is the service's, ``rss_kb_per_item`` what one added."""

    items: int = 0
    seconds: float = 0.0
    adds_per_second: float = 0.0
    searches: int = 0
    errors: int = 0
    first_error: str | None = None
    recall: float = 0.0
    rss_mb_start: float = 0.0
    rss_mb_end: float = 0.0
    rss_kb_per_item: float = 0.0

    def failed(self, what: str) -> None:
        self.errors += 1
        self.first_error = self.first_error or what


def run(
    folder: Path, items: int, writers: int = 64, searchers: int = 2, said: Callable[[str], None] = lambda _: None
) -> Growth:
    """Row n of ``known`` is photo ``p<n>``; the first of them are in the index, the others come while it is served."""
    known = vectors(1, _BASE + items, DIM)
    features = TokenFeatures.quantise(np.random.default_rng(2).normal(size=(TOKENS, TOKEN_DIM)))
    model = _store(folder, known[:_BASE], features)
    growth = Growth()
    with IndexService(folder / "store", folder / "service.log") as service:
        assert service.start(), (folder / "service.log").read_text()
        growth.rss_mb_start = _rss_mb(service.pid)
        asyncio.run(_grow(growth, service, model, known, features, writers, searchers, said))
    growth.rss_kb_per_item = round(1024 * (growth.rss_mb_end - growth.rss_mb_start) / items, 2)
    return growth


def _store(folder: Path, known: wire.Array, features: TokenFeatures) -> ModelManifest:
    model = write_model(folder / "model", dim=DIM, token_dim=TOKEN_DIM)
    store = ArtifactStore(folder / "store")
    with IndexBuilder(folder / "work", model, folder) as builder:
        builder.add(
            Photo(f"{row}.png", 1, 1, [], f"p{row}", Item(f"p{row}", {"name": "", "path": f"{row}.png"}, one, features))
            for row, one in enumerate(known)
        )
        builder.seal(folder / "index", "photos", "1")
    store.publish(folder / "model")
    store.publish(folder / "index")
    store.activate(Ref("small", "1"), Ref("photos", "1"))
    return model


async def _grow(
    growth: Growth,
    service: IndexService,
    model: ModelManifest,
    known: wire.Array,
    features: TokenFeatures,
    writers: int,
    searchers: int,
    said: Callable[[str], None],
) -> None:
    waiting, there = iter(range(_BASE, len(known))), list(range(_BASE))
    started, said_at = time.monotonic(), time.monotonic()

    async def write(http: aiohttp.ClientSession) -> None:
        nonlocal said_at
        for row in waiting:  # shared by all writers
            async with http.put(f"/images/p{row}", data=_message(model, row, known[row], features)) as answer:
                if answer.status != 200:
                    growth.failed(f"p{row}: {await answer.text()}")
                    continue
            there.append(row)
            if time.monotonic() > said_at + 5:
                said_at = time.monotonic()
                rate = (len(there) - _BASE) / (said_at - started)
                said(
                    f"{len(there) - _BASE} photos, {rate:.0f} a second, {growth.searches} searches, "
                    f"{growth.errors} errors, {_rss_mb(service.pid):.0f} MB"
                )

    async def search(http: aiohttp.ClientSession, rng: random.Random) -> None:
        while True:
            row = rng.choice(there)
            (found,) = await _search(http, known[row : row + 1])
            growth.searches += 1
            if len(found) != K or found[0] != f"p{row}":
                growth.failed(f"p{row} was not found first among {K}, but {found}")

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(service.url, connector=connector, timeout=aiohttp.ClientTimeout(60)) as http:
        searching = [asyncio.create_task(search(http, random.Random(seed))) for seed in range(searchers)]
        await asyncio.gather(*(write(http) for _ in range(writers)))
        growth.seconds = round(time.monotonic() - started, 1)
        for one in searching:
            if one.done():
                growth.failed(f"a searcher ended: {one.exception()!r}")
            one.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await one
        queries = vectors(3, _QUERIES, DIM)
        answers = await _search(http, queries)
    growth.items = len(there) - _BASE
    growth.adds_per_second = round(growth.items / growth.seconds, 1)
    growth.rss_mb_end = _rss_mb(service.pid)
    rows = np.sort(there)
    exact = rows[np.argsort(-(queries @ known[rows].T), axis=1)[:, :K]]
    hits = [len({f"p{row}" for row in best} & set(answer[:K])) for best, answer in zip(exact, answers, strict=True)]
    growth.recall = sum(hits) / (K * _QUERIES)


def _message(model: ModelManifest, row: int, vector: wire.Array, features: TokenFeatures) -> bytes:
    tensors: dict[str, wire.Array] = {
        "photo": np.frombuffer(picture() + row.to_bytes(8, "big"), np.uint8),
        "embedding": vector[None],
        **tokens.to_tensors([features]),
        "captions_embedding": vector[None],
        **tokens.to_tensors([features], "captions_"),
    }
    about = {
        "fingerprint": model.fingerprint,
        "name": f"{row}.png",
        "captions": [f"photo {row}"],
        "metadata": {"n": row},
    }
    return wire.pack(tensors, about)


async def _search(http: aiohttp.ClientSession, queries: wire.Array) -> list[list[str]]:
    """Each query's best photos, by id."""
    data = wire.pack({"queries": queries})
    async with http.post("/search", params={"collection": "images", "k": K}, data=data) as answer:
        answer.raise_for_status()
        return [[one["id"] for one in line] for line in wire.unpack(await answer.read())[1]["items"]]


def _rss_mb(pid: int) -> float:
    """The memory that a process has taken, on Linux."""
    (line,) = (one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith("VmRSS"))
    return round(int(line.split()[1]) / 1024, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--writers", type=int, default=64)
    parser.add_argument("--searchers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        said = lambda line: print(line, flush=True)  # noqa: E731
        growth = run(Path(folder), options.items, options.writers, options.searchers, said)
        if growth.errors:
            print((Path(folder) / "service.log").read_text()[-10_000:])
    print(json.dumps(vars(growth), indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(vars(growth), indent=1) + "\n")
    sys.exit(growth.errors > 0 or growth.recall < 1)


if __name__ == "__main__":
    main()
