"""Moving an index's items from one engine to another: in batches, going on where a kill left it, and then verified."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from shared.artifacts import ArtifactError, IndexManifest, hash_files
from shared.collections import items, sealed
from shared.collections.milvus_items import Milvus, MilvusItems, Stored
from shared.collections.protocol import CAPTIONS, IMAGES
from shared.settings import MilvusSettings

Step = Callable[[int], None]
_AT_ONCE = 500


class Side(Protocol):
    """The items of one collection in an engine, whole and in their order."""

    name: str

    def count(self) -> int: ...

    def page(self, after: str, limit: int) -> list[str]:
        """Ids that follow ``after``, in order."""
        ...

    def stored(self, ids: Sequence[str]) -> dict[str, Stored]:
        """By id; ids that do not exist are left out."""
        ...

    def upsert(self, some: Sequence[Stored]) -> None: ...


def copy(
    source: Mapping[str, Side],
    target: Mapping[str, Side],
    collections: Mapping[str, int],
    step: Step = lambda _done: None,
) -> None:
    """Bring into ``target`` what it lacks, or has otherwise, of ``source``. What a kill leaves is gone on from."""
    for name in collections:
        for ids in _pages(source[name]):
            there, wanted = target[name].stored(ids), _all(source[name], ids)
            target[name].upsert([one for one in wanted if one.item.id not in there or _differ(one, there[one.item.id])])
            step(len(ids))


def verify(
    source: Mapping[str, Side],
    target: Mapping[str, Side],
    collections: Mapping[str, int],
    step: Step = lambda _done: None,
) -> None:
    """Compare all of both, byte by byte. Raises :class:`ArtifactError` that names the first difference."""
    for name in collections:
        counts = source[name].count(), target[name].count()
        if counts[0] != counts[1]:
            raise ArtifactError(
                f"the copy {target[name].name} has {counts[1]:,} {name}, the index {counts[0]:,}: drop the copy, or "
                "stop who writes to the index meanwhile, and migrate again"
            )
        for ids in _pages(source[name]):
            found = target[name].stored(ids)
            for one in _all(source[name], ids):
                if one.item.id not in found or (part := _differ(one, found[one.item.id])):
                    what = part if one.item.id in found else "id"
                    raise ArtifactError(
                        f"the copy {target[name].name} differs from the index in the {what} of {one.item.id!r}; the "
                        "same command writes it again"
                    )
            step(len(ids))


def in_milvus(manifest: IndexManifest, access: MilvusSettings, *, writable: bool = False) -> dict[str, MilvusItems]:
    """Both collections of an index that is, or with ``writable`` will be, in Milvus."""
    assert manifest.engine is not None
    milvus = Milvus(manifest.engine, access)
    sides = {
        name: MilvusItems(milvus, manifest.engine, name, manifest.embedding_dim, manifest.token_dim)
        for name in (IMAGES, CAPTIONS)
    }
    for side in sides.values():
        if writable and not side.exists():
            side.create()
        side.open()
    return sides


def in_files(directory: Path, manifest: IndexManifest, *, writable: bool = False) -> dict[str, FileItems]:
    """Both collections of an index that is, or will be, in files under ``directory``."""
    connection = items.connect(directory / items.ITEMS, writable=writable)
    if writable:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS places (collection TEXT, id TEXT, number INTEGER, PRIMARY KEY (collection, id))"
        )
    return {name: FileItems(connection, name, manifest) for name in (IMAGES, CAPTIONS)}


def seal(work: Path, target: Path, manifest: IndexManifest) -> IndexManifest:
    """Write what has grown under ``work``, each item in its place, as an artifact at ``target``, to be searched as a
    build would have it. Returns the ``manifest`` of what is there now."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    try:
        with closing(items.connect(target / items.ITEMS, writable=True)) as connection:
            connection.execute("ATTACH ? AS grown", (str(work / items.ITEMS),))
            connection.execute(
                "INSERT INTO items (collection, id, metadata, vector, codes, scales) "
                "SELECT collection, id, metadata, vector, codes, scales FROM grown.items "
                "JOIN grown.places USING (collection, id) ORDER BY places.number, collection DESC, id"
            )
            connection.execute("DETACH grown")
            connection.execute("PRAGMA journal_mode = DELETE")
            counts = {name: items.count(connection, name) for name in (IMAGES, CAPTIONS)}
        shards = sealed.write(target, counts, manifest.embedding_dim, sealed.DEFAULT)
    except (OSError, sqlite3.Error) as error:
        raise ArtifactError(f"the index at {target} cannot be written: {error}") from error
    return manifest.model_copy(update={"collections": counts, "shards": shards, "files": hash_files(target)})


class FileItems:
    """One collection in an item store; what grows has each item's place beside it."""

    def __init__(self, connection: sqlite3.Connection, collection: str, manifest: IndexManifest) -> None:
        self.name = collection
        self._connection = connection
        self._dim, self._token_dim = manifest.embedding_dim, manifest.token_dim

    def count(self) -> int:
        return items.count(self._connection, self.name)

    def page(self, after: str, limit: int) -> list[str]:
        statement = "SELECT id FROM items WHERE collection = ? AND id > ? ORDER BY id LIMIT ?"
        return [one for (one,) in self._connection.execute(statement, (self.name, after, limit))]

    def stored(self, ids: Sequence[str]) -> dict[str, Stored]:
        found = items.items(self._connection, self.name, ids, self._token_dim)
        photos = {one: str(item.metadata.get("image_id", one)) for one, item in found.items()}
        about = items.metadata(self._connection, IMAGES, sorted(set(photos.values())))
        marks = ",".join("?" * len(ids))
        statement = f"SELECT id, number FROM items WHERE collection = ? AND id IN ({marks})"  # noqa: S608  (no values)
        numbers = dict(self._connection.execute(statement, (self.name, *ids)))
        return {
            one: Stored(
                item, numbers[one], about.get(photos[one], {}).get("metadata") or {}, item.metadata.get("tags", ())
            )
            for one, item in found.items()
        }

    def upsert(self, some: Sequence[Stored]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            items.upsert(self._connection, self.name, [one.item for one in some], self._dim, self._token_dim)
            self._connection.executemany(
                "INSERT OR REPLACE INTO places VALUES (?, ?, ?)", [(self.name, one.item.id, one.number) for one in some]
            )
            self._connection.execute("COMMIT")
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise


def _pages(side: Side) -> Any:
    after = ""
    while ids := side.page(after, _AT_ONCE):
        yield ids
        after = ids[-1]


def _all(side: Side, ids: Sequence[str]) -> list[Stored]:
    found = side.stored(ids)
    if missing := [one for one in ids if one not in found]:
        raise ArtifactError(f"{missing[0]!r} was removed while the index was read: migrate again")
    return [found[one] for one in ids]


def _differ(one: Stored, other: Stored) -> str | None:
    """What differs; numbers are places, which a copy may count anew."""
    a, b = one.item, other.item
    if a.vector.tobytes() != b.vector.tobytes():
        return "vector"
    if (a.tokens.codes.tobytes(), a.tokens.scales.tobytes()) != (b.tokens.codes.tobytes(), b.tokens.scales.tobytes()):
        return "tokens"
    return None if json.dumps([a.metadata, one.said]) == json.dumps([b.metadata, other.said]) else "metadata"
