"""What an artifact keeps of a collection beside its items, so that nothing must be read one by one to be searched.

::

    NAME.vectors.npy   float32 (n, D)     NAME.ids.npy   bytes (n,), UTF-8     NAME.numbers.npy   int64 (n,), rising
    NAME.faiss         an index of FAISS's, for every kind but flat

A row's number is that of its item in SQLite. Artifacts of before have none of these files: they are searched exactly.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.artifacts import ArtifactError, IndexManifest
from shared.collections import items, kinds, tuning
from shared.collections.exact import Float32, Int64, faiss
from shared.collections.shards import SealedShard
from shared.collections.snapshot import Ids, Snapshot, as_ids
from shared.schemas import SealedShard as About
from shared.schemas import ShardKind

_QUERIES = 1024
_AT_ONCE = 8192


@dataclass(frozen=True)
class Sealing:
    """What is asked of an index: a ``kind`` of shard or, with None, the one that fits ``memory_bytes`` for all
    collections together; ``recall`` at 10 is what it is tuned to."""

    kind: ShardKind | None = None
    memory_bytes: int = 4_000_000_000
    recall: float = 0.95

    def kinds(self, counts: Mapping[str, int], dim: int) -> dict[str, ShardKind]:
        """That of each collection of so many items."""
        total = max(1, sum(counts.values()))
        chosen: dict[str, ShardKind] = {}
        for name, count in counts.items():
            budget = self.memory_bytes * count // total
            kind = self.kind or kinds.choose(count, dim, budget, self.recall)
            chosen[name] = kind if count >= kinds.LEAST_ITEMS else "flat"
        return chosen

    def digest(self, counts: Mapping[str, int], dim: int) -> str:
        """Tells apart what would be sealed in another way; empty for exact search."""
        chosen = {name: kind for name, kind in sorted(self.kinds(counts, dim).items()) if kind != "flat"}
        return f"{chosen}{self.recall}" if chosen else ""


DEFAULT = Sealing()


def write(folder: Path, counts: Mapping[str, int], dim: int, sealing: Sealing) -> dict[str, About]:
    """Write the files of all collections of the item store in ``folder``, and tell how each is searched."""
    connection = items.connect(folder / items.ITEMS, writable=False)
    try:
        vectors = {name: _copied(folder, connection, name, count, dim) for name, count in counts.items()}
    finally:
        connection.close()
    made: dict[str, About] = {}
    for name, kind in sealing.kinds(counts, dim).items():
        others = next((other for other in counts if other != name and counts[other] >= kinds.LEAST_ITEMS), None)
        queries = None if others is None else (others, vectors[others])
        made[name] = About(kind=kind) if kind == "flat" else _built(folder, name, kind, vectors[name], queries, sealing)
    return made


def read(folder: Path, name: str, manifest: IndexManifest, connection: sqlite3.Connection) -> tuple[Snapshot, Int64]:
    """A collection, to be searched as it was sealed, and the numbers (n,) of its rows' items."""
    dim, about = manifest.embedding_dim, manifest.shards.get(name)
    if about is None:
        ids, vectors = items.vectors(connection, name, dim)
        return Snapshot(as_ids(ids), _checked(vectors, name)), items.numbers(connection, name)
    try:
        known: Ids = np.load(folder / f"{name}.ids.npy")
        numbers: Int64 = np.load(folder / f"{name}.numbers.npy")
        vectors = np.load(folder / f"{name}.vectors.npy", mmap_mode=None if about.kind == "flat" else "r")
        if not len(known) == len(numbers) == len(vectors) or vectors.shape[1:] != (dim,):
            raise ValueError(f"{len(known)} ids, {len(numbers)} numbers and vectors {vectors.shape}")
        if about.kind == "flat":
            return Snapshot(known, _checked(vectors, name)), numbers
        index = kinds.opened(str(folder / f"{name}.faiss"), about.kind)
        effort, refine = about.parameters[kinds.name_of_effort(index)], about.parameters["refine"]
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ArtifactError(f"{folder}: the files of {name} do not fit together ({error}); build it again") from error
    return Snapshot.sealed(known, SealedShard(index, vectors, effort, refine), dim), numbers


def _copied(folder: Path, connection: sqlite3.Connection, name: str, count: int, dim: int) -> Float32:
    """The collection's vectors, mapped from the file that was written; ids and numbers lie beside it."""
    longest = items.longest_id(connection, name)
    path = folder / f"{name}.vectors.npy"
    if count == 0:  # nothing can be mapped
        np.save(path, np.empty((0, dim), np.float32))
    else:
        vectors = np.lib.format.open_memmap(path, "w+", np.float32, (count, dim))
    ids, numbers = np.zeros(count, f"S{max(1, longest)}"), np.zeros(count, np.int64)
    start = 0
    for part in items.vectors_by(connection, name, dim, _AT_ONCE):
        end = start + len(part.ids)
        vectors[start:end] = _checked(part.vectors, name)
        ids[start:end], numbers[start:end] = as_ids(part.ids), part.numbers
        start = end
    np.save(folder / f"{name}.ids.npy", ids)
    np.save(folder / f"{name}.numbers.npy", numbers)
    if count:
        vectors.flush()
    copied: Float32 = np.load(path, mmap_mode="r" if count else None)
    return copied


def _built(
    folder: Path,
    name: str,
    kind: ShardKind,
    vectors: Float32,
    others: tuple[str, Float32] | None,
    sealing: Sealing,
) -> About:
    """Train, fill, tune and write an index, and tell what came of it."""
    began = time.perf_counter()
    if others is None:
        queries, source = tuning.noisy(vectors, _QUERIES), f"{name} with noise"
    else:
        queries, source = tuning.some(others[1], _QUERIES), others[0]
    index = kinds.made(kind, vectors, queries[::2])
    found = tuning.tuned(index, vectors, queries, sealing.recall)
    faiss.write_index(index, str(folder / f"{name}.faiss"))
    return About(
        kind=kind,
        parameters={kinds.name_of_effort(index): found.effort, "refine": found.refine, **kinds.described(index)},
        recall_at_10=round(found.recall, 4),
        target=sealing.recall,
        queries=f"{len(queries[::2])} {source} to choose, {len(queries[1::2])} others to measure",
        build_seconds=round(time.perf_counter() - began, 1),
    )


def _checked(vectors: Float32, name: str) -> Float32:
    if not np.isfinite(vectors).all():
        raise ArtifactError(f"{name} holds vectors with NaN or infinity; build the index again")
    return vectors
