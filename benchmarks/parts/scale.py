"""Every kind of sealed shard at a given number of items, beside raw FAISS and usearch, and in the index service."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import get_args

import httpx
import numpy as np

from benchmarks import vectors
from benchmarks.bench import Bench, Figures
from benchmarks.memory import megabytes
from benchmarks.partners import usearch_index
from benchmarks.statistics import percentiles_ms
from diptych import shipped
from diptych.state import StateDirectory
from shared import wire
from shared.artifacts import ArtifactStore, Ref
from shared.collections import IndexBuilder, Item, Photo, Sealing, Snapshot, kinds, tuning
from shared.collections.exact import Float32, Int64, faiss
from shared.collections.shards import SealedShard
from shared.schemas import ShardKind
from shared.tokens import TokenFeatures

K, BATCH = 10, 64
_KINDS: tuple[ShardKind, ...] = get_args(ShardKind)
_ASKED_SINGLY = 500


def measure(bench: Bench, items: int, recall: float, only: Sequence[str], data: Path | None, service: bool) -> Figures:
    work = bench.work / "scale"
    work.mkdir(parents=True, exist_ok=True)
    bench.say("embedding what the vectors are made of (once)")
    kept = bench.work.parent / f"diptych-embedded-{'captions' if data is None else data.name}"  # for the next run
    bench.alone(vectors.embedded, kept, work, data)
    bench.say(f"making {items:,} vectors")
    bench.alone(vectors.write, work, items)
    points: list[Figures] = []
    for kind in (kind for kind in _KINDS if not only or kind in only):
        made: Figures = {}
        if kind != "flat":
            bench.say(f"building {kind}")
            made = bench.alone(build, work, kind, recall)
        for raw in (False, True):
            found = bench.alone(ask, work, kind, made, raw)
            system = "raw FAISS" if raw else "diptych"
            points.append(bench.note({"system": system, "what": kind, "items": items, **made, **found}))
        (work / "index.faiss").unlink(missing_ok=True)
    if usearch_index.installed() and (not only or "usearch" in only):
        found = bench.alone(usearch_index.measure, work, recall)
        points.append(bench.note({"system": "usearch", "what": "hnsw", "items": items, **found}))
    figures: Figures = {"points": points, "items": items, "target": recall}
    figures["source"] = "made captions" if data is None else "photos, asked for by captions"
    if service:
        figures["service"] = _served(bench, work, items, recall)
        points.append(bench.note({"system": "index service", "items": items, **figures["service"]}))
    (work / "vectors.npy").unlink()
    return figures


def build(work: Path, kind: ShardKind, recall: float) -> Figures:
    """Train, fill and tune an index; how long it took, and what it takes."""
    items: Float32 = np.load(work / "vectors.npy", mmap_mode="r")
    asked: Float32 = np.load(work / "queries.npy")[: vectors.TUNE]
    began = time.perf_counter()
    index = kinds.made(kind, items, asked[::2])
    built = time.perf_counter()
    found = tuning.tuned(index, items, asked, recall)
    faiss.write_index(index, str(work / "index.faiss"))
    return {
        "effort": found.effort,
        "refine": found.refine,
        "build_seconds": round(built - began, 1),
        "tune_seconds": round(time.perf_counter() - built, 1),
        "build_memory": megabytes_of_own(),
        "disk_mb": round((work / "index.faiss").stat().st_size / 1e6, 1),
    }


def ask(work: Path, kind: ShardKind, made: Figures, raw: bool) -> Figures:
    """Questions one by one and in batches, to a snapshot or to FAISS's index alone, which refines nothing."""
    queries: Float32 = np.load(work / "queries.npy")[vectors.TUNE :]
    search = _raw(work, kind, made) if raw else _snapshot(work, kind, made)
    return asked(work, search, queries)


def asked(work: Path, search: Callable[[Float32], Int64], queries: Float32) -> Figures:
    """Recall, latency and throughput of a ``search`` that gives rows (B, 10)."""
    search(queries[:BATCH])
    latencies, found = [], []
    for query in queries[:_ASKED_SINGLY]:
        began = time.perf_counter()
        found.append(search(query[None]))
        latencies.append(time.perf_counter() - began)
    began = time.perf_counter()
    for start in range(0, len(queries), BATCH):
        search(queries[start : start + BATCH])
    throughput = len(queries) / (time.perf_counter() - began)
    return {
        "recall_at_10": round(recall_of(work, np.concatenate(found)), 4),
        **percentiles_ms(latencies),
        "batch": BATCH,
        "throughput": round(throughput, 1),
        "memory": megabytes_of_own(),
    }


def recall_of(work: Path, rows: Int64) -> float:
    truth = np.load(work / "truth.npy")[: len(rows)]
    return float(np.mean([len(set(one) & set(other)) for one, other in zip(truth, rows, strict=True)])) / K


def megabytes_of_own() -> dict[str, float]:
    """Resident memory; ``anonymous_mb`` is what is not a mapped file's, which the system may take back at any time."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    held = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
    return {**megabytes("self"), "anonymous_mb": round(held / 1024, 1)}


def _snapshot(work: Path, kind: ShardKind, made: Figures) -> Callable[[Float32], Int64]:
    items: Float32 = np.load(work / "vectors.npy", mmap_mode=None if kind == "flat" else "r")
    ids = np.zeros(len(items), "S1")
    if kind == "flat":
        snapshot = Snapshot(ids, items)
    else:
        index = kinds.opened(str(work / "index.faiss"), kind)
        snapshot = Snapshot.sealed(ids, SealedShard(index, items, made["effort"], made["refine"]), items.shape[1])
    return lambda queries: snapshot.search(queries, K)[1]


def _raw(work: Path, kind: ShardKind, made: Figures) -> Callable[[Float32], Int64]:
    if kind == "flat":
        items: Float32 = np.load(work / "vectors.npy", mmap_mode="r")
        flat = faiss.IndexFlatIP(items.shape[1])
        for start in range(0, len(items), 100_000):
            flat.add(np.ascontiguousarray(items[start : start + 100_000]))
        return lambda queries: flat.search(queries, K)[1]
    index = kinds.opened(str(work / "index.faiss"), kind)
    return lambda queries: kinds.nearest(index, queries, K, made["effort"], None)


def _served(bench: Bench, work: Path, items: int, recall: float) -> Figures:
    """One caller of the index service, over an index of these vectors as ``diptych index build`` seals it."""
    bench.say(f"publishing an index of {items:,} items")
    state = StateDirectory(bench.work / "state")
    shard = bench.alone(publish, state.store, work, recall)
    bench.__dict__["state"] = state
    queries: Float32 = np.load(work / "queries.npy")[vectors.TUNE :]
    latencies, found = [], []
    with bench.stack("index") as stack, httpx.Client(base_url=stack.url("index"), timeout=60) as client:
        for n, query in enumerate([*queries[:20], *queries[:_ASKED_SINGLY]]):
            began = time.perf_counter()
            answer = client.post(f"/search?collection=images&k={K}", content=wire.pack({"queries": query[None]}, {}))
            taken = time.perf_counter() - began
            _, meta = wire.unpack(answer.raise_for_status().content)
            if n >= 20:
                latencies.append(taken)
                found.append([int(item["id"]) for item in meta["items"][0]])
        memory = stack.memory()["index"]
    rate = {"throughput": round(len(latencies) / sum(latencies), 1), "batch": 1, "memory": memory}
    reached = {"recall_at_10": round(recall_of(work, np.array(found)), 4)}
    return {"what": shard["kind"], "shard": shard, **reached, **percentiles_ms(latencies), **rate}


def publish(store: Path, work: Path, recall: float) -> Figures:
    """An index whose photos are the vectors, with the tuning queries as captions, is published and served."""
    shelf, model = ArtifactStore(store), shipped.model()
    published = shelf.publish(model)
    manifest = shelf.model(Ref.parse(published.ref))
    building, sealed = work / "building", work / "sealed"
    for folder in (building, sealed):
        shutil.rmtree(folder, ignore_errors=True)
    with closing(IndexBuilder(building, manifest, work)) as builder:
        for photos in _photos(work, manifest.token_dim):
            builder.add(photos)
        index = builder.seal(sealed, "scale", "1", sealing=Sealing(recall=recall))
    shutil.rmtree(building)
    shelf.publish(sealed)
    shutil.rmtree(sealed)
    shelf.activate(Ref.parse(manifest.ref), Ref.parse(index.ref))
    return index.shards["images"].model_dump()


def _photos(work: Path, token_dim: int) -> Iterator[list[Photo]]:
    items: Float32 = np.load(work / "vectors.npy", mmap_mode="r")
    asked: Float32 = np.load(work / "queries.npy")[: vectors.TUNE]
    one = TokenFeatures(np.zeros((1, token_dim), np.int8), np.ones(1, np.float16))  # to save room
    for start in range(0, len(items), 10_000):
        photos = []
        for n, vector in enumerate(items[start : start + 10_000], start):
            image_id = f"{n:010}"
            about = {"name": image_id, "path": image_id}
            said = (
                [Item(f"{image_id}-0", {"caption": "", "image_id": image_id}, asked[n], one)] if n < len(asked) else []
            )
            photos.append(Photo(image_id, 1, 0, [], image_id, Item(image_id, about, np.array(vector), one), said))
        yield photos
