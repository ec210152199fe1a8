"""A collection in Milvus.

The library stays the truth of what is put in: its news is written into Milvus, each photo's items first, then what it
had before is deleted. That comes to the same however often it is done and whoever does it, so an index that starts goes
through all news since it was migrated, and several services may follow one library. Meanwhile a search may find a
photo's old captions beside its new ones, which the embedded engine never shows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from shared.artifacts import ArtifactError, IndexManifest
from shared.artifacts.manifest import MilvusEngine
from shared.collections.items import Float32, Item
from shared.collections.library import LibraryReader, News
from shared.collections.milvus_filters import expression, has
from shared.collections.milvus_items import MOST_RESULTS, Milvus, MilvusItems, Stored, among
from shared.collections.protocol import CAPTIONS, IMAGES
from shared.collections.snapshot import Snapshot
from shared.filters import Filter
from shared.settings import MilvusSettings
from shared.tokens import TokenFeatures

_LATER = 1 << 40  # numbers of what came after the index was built are above those of its own
_PHOTOS_AT_ONCE = 200


def open_collections(
    manifest: IndexManifest, engine: MilvusEngine, library: LibraryReader | None, access: MilvusSettings
) -> tuple[MilvusCollection, MilvusCollection]:
    """Images and captions. Raises :class:`ArtifactError` when Milvus is away, or lacks or has others of them."""
    milvus = Milvus(engine, access)
    parts = {
        name: MilvusItems(milvus, engine, name, manifest.embedding_dim, manifest.token_dim)
        for name in (IMAGES, CAPTIONS)
    }
    for part in parts.values():
        part.open()
    unchanged = library is not None and library.revision() <= manifest.library_seq
    for name, part in parts.items():
        if unchanged and (count := part.count()) < manifest.collections.get(name, 0):
            raise ArtifactError(
                f"{part.name} has {count} {name}, its manifest says {manifest.collections[name]}, and its library "
                "knows of no change: restore the library, or migrate the index again"
            )
    images, captions = (MilvusCollection(name, parts, manifest, library) for name in (IMAGES, CAPTIONS))
    return images, captions


class MilvusCollection:
    """One kind of item of an index, as :class:`~shared.collections.protocol.VectorCollection` has it.

    With the index type FLAT a search is exact. With another it is as good as that is, and all queries of a call get as
    many results as the one that gets the fewest. No query gets more than 16,384.
    """

    def __init__(
        self, name: str, parts: dict[str, MilvusItems], manifest: IndexManifest, library: LibraryReader | None
    ) -> None:
        self.name = name
        self._own, self._parts = parts[name], parts
        self._library = library
        self._token_dim = manifest.token_dim
        self._nothing = Snapshot((), np.empty((0, manifest.embedding_dim), np.float32))
        self._count = self._own.count()

    def __len__(self) -> int:
        return self._count

    def search(
        self, queries: Float32, k: int, tags: Sequence[str] = (), where: Filter | None = None
    ) -> tuple[Float32, list[list[str]]]:
        self._nothing.search(queries, k)  # refuses what the embedded engine refuses
        if k > MOST_RESULTS < self._count:
            raise ValueError(f"k is {k}; Milvus gives at most {MOST_RESULTS} results")
        if not len(queries) or not self._count:
            return np.zeros((len(queries), min(k, self._count)), np.float32), [[] for _ in queries]
        what = expression(tags, where, self._judged)
        lines = self._nearest(queries, min(k + 1, MOST_RESULTS), what)
        for place, line in enumerate(lines):
            # Milvus picks any of those that share the last place: all of them are needed to choose from.
            fetched = k + 1
            while len(line) == fetched < MOST_RESULTS and line[k - 1][0] == line[-1][0]:
                fetched = min(4 * fetched, MOST_RESULTS)
                (line,) = self._nearest(queries[place : place + 1], fetched, what)  # noqa: PLW2901
            lines[place] = line
        k = min(k, *map(len, lines))
        scores = np.array([[-score for score, _, _ in line[:k]] for line in lines], np.float32).reshape(len(lines), k)
        return scores, [[one for _, _, one in line[:k]] for line in lines]

    def _nearest(self, queries: Float32, k: int, what: str) -> list[list[tuple[float, int, str]]]:
        """Each query's best as (-score, number, id), sorted."""
        found = self._own.search(queries, k, what, ["number"])
        return [sorted((-score, int(row["number"]), str(row["id"])) for score, row in line) for line in found]

    def _judged(self, fact: str, where: Filter) -> list[str]:
        """Ids of the items with a fact whose photo's metadata fit, by Python's say."""
        return [row["id"] for row in self._own.query(has(fact), ["id", "said"]) if where.fits(json.loads(row["said"]))]

    def metadata(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        found = self._own.by_id(ids, ["metadata"])
        return [json.loads(found[one]["metadata"]) for one in ids]

    def tokens(self, ids: Sequence[str]) -> list[TokenFeatures]:
        found = self._own.by_id(ids, ["tokens"])
        return [self._own.as_tokens(found[one]) for one in ids]

    def items(self, ids: Sequence[str]) -> list[Item]:
        found = self._own.stored(ids)
        return [found[one].item for one in ids]

    def published(self, photo: str) -> dict[str, Any]:
        about = json.loads(self._parts[IMAGES].by_id([photo], ["metadata"])[photo]["metadata"])
        rows = self._parts[CAPTIONS].query(among("photo", [photo]), ["number", "metadata"])
        captions = [json.loads(row["metadata"])["caption"] for row in sorted(rows, key=lambda row: int(row["number"]))]
        return {"name": about["name"], "captions": captions, "tags": [], "metadata": {}, "bytes": about.get("bytes")}

    def page(self, after: str, limit: int) -> list[str]:
        return self._parts[IMAGES].page(after, limit)

    def check(self, item: Item) -> None:
        self._own.check(Stored(item, 0, item.metadata.get("metadata", {}), item.metadata.get("tags", ())))

    def apply(self, news: Sequence[News]) -> None:
        for start in range(0, len(news), _PHOTOS_AT_ONCE):
            self._apply(news[start : start + _PHOTOS_AT_ONCE])
        self._count = self._own.count()

    def _apply(self, news: Sequence[News]) -> None:
        rows = {row.id: (row, one) for one in news for row in one.rows or () if row.collection == self.name}
        if rows and self._library is not None:
            made = self._library.numbered([row.number for row, _ in rows.values()], self._token_dim)
            self._own.upsert(
                # One that the library has no more was changed again: that is news yet to come.
                Stored(made[row.id], _LATER + row.number, dict(one.metadata), row.tags)
                for row, one in rows.values()
                if row.id in made
            )
        changed = among("photo", [one.id for one in news])
        self._own.delete(f"{changed} and not ({among('id', list(rows))})" if rows else changed)
