"""A published index, opened for reading, with what the library beside it says of later changes."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from shared.artifacts import ArtifactError, IndexManifest, read_manifest, verify_files
from shared.collections import addresses, items, sealed
from shared.collections.exact import Bool, Float32
from shared.collections.items import Item
from shared.collections.library import LibraryReader, News, Row
from shared.collections.protocol import CAPTIONS, IMAGES, VectorCollection
from shared.filters import Filter
from shared.settings import MilvusSettings
from shared.tokens import TokenFeatures


class Collection:
    """One kind of item of an index: vectors in memory, everything else read from SQLite when asked for."""

    def __init__(self, name: str, path: Path, manifest: IndexManifest, library: LibraryReader | None) -> None:
        self.name = name
        self._path = path
        self._dim = manifest.embedding_dim
        self._token_dim = manifest.token_dim
        self._library = library
        self._idle: list[sqlite3.Connection] = []
        weakref.finalize(self, _close, self._idle)  # once nobody is reading any more
        with self._connection() as connection:
            self.snapshot, self._published = sealed.read(path.parent, name, manifest, connection)
            self._tagged: dict[str, list[int]] = {}  # rows
            for number, own in items.tags(connection, name):
                for tag in own:
                    self._tagged.setdefault(tag, []).append(self._row(number))
            # By row, where there is any.
            self._said = {self._row(number): said for number, said in items.photo_metadata(connection, name)}
            stored = items.count(connection, name)
        for rows in (stored, self.snapshot.rows):
            if rows != manifest.collections.get(name):
                raise ArtifactError(f"{path} has {rows} {name}, its manifest says {manifest.collections.get(name)}")
        # Of items that came later: their numbers in the library, also when they are removed again, for who is just
        # reading them; and the rows of each photo's items, none once it is removed.
        self._numbers: dict[str, int] = {}
        self._rows: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return len(self.snapshot)

    def _row(self, number: int) -> int:
        """Of a published item."""
        return int(np.searchsorted(self._published, number))

    def search(
        self, queries: Float32, k: int, tags: Sequence[str] = (), where: Filter | None = None
    ) -> tuple[Float32, list[list[str]]]:
        """Cosines (B, k') and ids of each query's best ``k' = min(k, n)`` of the n items that have all the ``tags``
        and whose photo's metadata fit ``where``.

        Raises as :class:`Snapshot` does.
        """
        snapshot = self.snapshot
        among = self._with(tags, snapshot.rows) if tags else None
        if where is not None:
            fitting = self._fitting(where, snapshot.rows)
            among = fitting if among is None else among & fitting
        scores, rows = snapshot.search(queries, k, among)
        return scores, [[snapshot.id(row) for row in line] for line in rows]

    def _with(self, tags: Sequence[str], rows: int) -> Bool:
        """(rows,), true where an item has all the tags."""
        among = np.ones(rows, np.bool_)
        for tag in tags:
            tagged = np.array(self._tagged.get(tag, ()), np.int64)
            mask = np.zeros(rows, np.bool_)
            mask[tagged[tagged < rows]] = True
            among &= mask
        return among

    def _fitting(self, where: Filter, rows: int) -> Bool:
        """(rows,), true where the photo's metadata fit."""
        if where.empty:
            return np.ones(rows, np.bool_)
        among = np.zeros(rows, np.bool_)
        # Copied in one step, for a change may come meanwhile; rows are never given to another item.
        among[[row for row, said in list(self._said.items()) if row < rows and where.fits(said)]] = True
        return among

    def metadata(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """In the order of ``ids``. Raises KeyError for an id that does not exist."""
        numbers = [(one, self._numbers.get(one)) for one in ids]
        found: dict[str, dict[str, Any]] = {}
        if published := [one for one, number in numbers if number is None]:
            with self._connection() as connection:
                found = items.metadata(connection, self.name, published)
        if self._library is not None and len(published) < len(ids):
            later = [(one, number) for one, number in numbers if number is not None]
            values = self._library.metadata([number for _, number in later])
            found |= {one: value for (one, _), value in zip(later, values, strict=True)}
        return [found[item_id] for item_id in ids]

    def tokens(self, ids: Sequence[str]) -> list[TokenFeatures]:
        """In the order of ``ids``. Raises KeyError for an id that does not exist."""
        numbers = [(one, self._numbers.get(one)) for one in ids]
        found: dict[str, TokenFeatures] = {}
        if published := [one for one, number in numbers if number is None]:
            with self._connection() as connection:
                found = dict(
                    zip(published, items.tokens(connection, self.name, published, self._token_dim), strict=True)
                )
        if self._library is not None and len(published) < len(ids):
            later = [(one, number) for one, number in numbers if number is not None]
            values = self._library.tokens([number for _, number in later], self._token_dim)
            found |= {one: value for (one, _), value in zip(later, values, strict=True)}
        return [found[item_id] for item_id in ids]

    def items(self, ids: Sequence[str]) -> list[Item]:
        """All that is stored, in the order of ``ids``. Raises KeyError for an id that does not exist."""
        numbers = {one: self._numbers[one] for one in ids if one in self._numbers}
        with self._connection() as connection:
            published = [one for one in ids if one not in numbers]
            found = items.items(connection, self.name, published, self._token_dim)
        if self._library is not None and numbers:
            found |= self._library.numbered(list(numbers.values()), self._token_dim)
        return [found[item_id] for item_id in ids]

    def published(self, photo: str) -> dict[str, Any]:
        """What the artifact says of a photo, in the library's words. Raises KeyError."""
        with self._connection() as connection:
            about = items.metadata(connection, IMAGES, [photo])[photo]
            captions = items.captions(connection, photo)
        return {"name": about["name"], "captions": captions, "tags": [], "metadata": {}, "bytes": about.get("bytes")}

    def page(self, after: str, limit: int) -> list[str]:
        """Ids of the artifact's photos that follow ``after``, in order."""
        with self._connection() as connection:
            return items.page(connection, after, limit)

    def check(self, item: Item) -> None:
        """Raises ValueError for an item that cannot be searched."""
        items.check(item, self._dim, self._token_dim)

    def apply(self, news: Sequence[News]) -> None:
        """Take in the last change of each of these photos. One caller at a time."""
        removed: list[int] = []
        added: list[tuple[News, Row]] = []
        with self._connection() as connection:
            for one in news:
                if one.id in self._rows:
                    removed += self._rows[one.id]
                else:
                    removed += map(self._row, items.numbers_of_photo(connection, self.name, one.id))
                self._rows[one.id] = []
                added += [(one, row) for row in one.rows or () if row.collection == self.name]
        first = self.snapshot.rows
        for place, (one, row) in enumerate(added):
            self._numbers[row.id] = row.number
            self._rows[one.id].append(first + place)
            if one.metadata:
                self._said[first + place] = one.metadata
            for tag in row.tags:
                self._tagged.setdefault(tag, []).append(first + place)
        vectors = np.stack([row.vector for _, row in added]) if added else np.empty((0, self._dim), np.float32)
        if added or removed:
            self.snapshot = self.snapshot.changed([row.id for _, row in added], vectors, removed)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """A connection that nobody else uses meanwhile; an idle one where there is one."""
        connection = self._idle.pop() if self._idle else items.connect(self._path, writable=False)
        try:
            yield connection
        finally:
            self._idle.append(connection)


class IndexDirectory:
    """An index artifact, and the changes of a ``library`` since it was built: ``revision`` is the last of them.

    ``photo_root`` is where its photos lie, as recorded or as told to :meth:`open`: a folder or an fsspec URL, under
    which each has an :mod:`address <shared.collections.addresses>`. ``pending`` are the photos of the library that its
    model has not seen yet, with the number of their last change.
    """

    def __init__(
        self,
        manifest: IndexManifest,
        images: VectorCollection,
        captions: VectorCollection,
        photo_root: addresses.Root,
        library: LibraryReader | None,
    ) -> None:
        self.manifest = manifest
        self.images = images
        self.captions = captions
        self.photo_root = photo_root
        self.library = library
        self.revision = manifest.library_seq
        self.pending: dict[str, int] = {}
        self._lock = threading.Lock()

    @staticmethod
    def open(
        directory: Path,
        *,
        photo_root: Path | None = None,
        library: LibraryReader | None = None,
        milvus: MilvusSettings | None = None,
    ) -> IndexDirectory:
        """Check an artifact's files, read its vectors, or reach the engine that has them, and take in the changes.
        Raises :class:`ArtifactError` when something is damaged or away."""
        manifest = read_manifest(directory)
        if not isinstance(manifest, IndexManifest):
            raise ArtifactError(f"{directory} holds a {manifest.kind}, not an index")
        verify_files(directory, manifest)
        images: VectorCollection
        captions: VectorCollection
        if manifest.engine is not None:
            from shared.collections.milvus import open_collections

            access = MilvusSettings.model_construct() if milvus is None else milvus
            images, captions = open_collections(manifest, manifest.engine, library, access)
        else:
            try:
                images, captions = (
                    Collection(name, directory / items.ITEMS, manifest, library) for name in (IMAGES, CAPTIONS)
                )
            except sqlite3.Error as error:
                raise ArtifactError(f"{directory / items.ITEMS} cannot be read: {error}") from error
        root = photo_root or addresses.root_of(manifest.photo_root)
        opened = IndexDirectory(manifest, images, captions, root, library)
        opened.refresh()
        return opened

    def refresh(self) -> None:
        """Take in what has changed in the library. A search sees a change whole or not at all."""
        if self.library is None:
            return
        with self._lock:
            news = list(self.library.news(self.revision, self.manifest.fingerprint, self.manifest.embedding_dim))
            if not news:
                return
            for collection in (self.images, self.captions):
                collection.apply(news)
            for one in news:
                self.pending.pop(one.id, None)
                if one.rows is not None and not one.rows:
                    self.pending[one.id] = one.seq
            self.revision = news[-1].seq

    def collection(self, name: str) -> VectorCollection:
        """``images`` or ``captions``. Raises KeyError."""
        return {IMAGES: self.images, CAPTIONS: self.captions}[name]

    def about(self, image_id: str) -> dict[str, Any]:
        """A photo's ``id``, ``name``, ``captions``, ``tags``, ``metadata`` and ``bytes``. Raises KeyError."""
        if self.library is not None and (kept := self.library.photo(image_id)) is not None:
            return {"id": image_id, **kept.about}
        return {"id": image_id, **self.images.published(image_id)}

    def items(self, collection: str, ids: Sequence[str]) -> list[Item]:
        """What the index's model made of photos or captions, in the order of ``ids``. Raises KeyError with an id that
        does not exist, that was removed, or that the model has not seen as it is now."""
        found = self.collection(collection).items(ids)
        for item in found:
            photo = item.id if collection == IMAGES else str(item.metadata["image_id"])
            self.about(photo)
            if photo in self.pending:
                raise KeyError(item.id)
        return found

    def page(self, after: str, limit: int) -> list[str]:
        """Ids of up to ``limit`` photos that follow ``after``, in order: what the library has removed is not there, and
        what waits for the model to see it is."""
        found: list[str] = []
        while len(found) < limit:
            later = [] if self.library is None else self.library.page(after, limit)
            published = self.images.page(after, limit)
            # Both are whole up to where the shorter of two full pages ends.
            ends = [ids[-1] for ids in ([one for one, _ in later], published) if len(ids) == limit]
            removed = {one for one, there in later if not there}
            ids = sorted({one for one, _ in later} | set(published))
            found += [one for one in ids if one not in removed and (not ends or one <= min(ends))]
            if not ends:
                break
            after = min(ends)
        return found[:limit]

    def photo(self, image_id: str) -> Path:
        """The photo's file. Raises KeyError for an unknown id and FileNotFoundError when it is not under the root, or
        no file of its own on this machine: :meth:`content` reads those, too."""
        if self.library is not None and (kept := self.library.photo(image_id)) is not None:
            return self.library.file(kept.sha256)
        recorded = self._address(image_id)
        try:
            return addresses.local(self.photo_root, recorded)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"photo {image_id} is no longer at {recorded} under the photo folder") from error

    def content(self, image_id: str) -> bytes:
        """The photo's bytes, as indexed. Raises KeyError for an unknown id and OSError for one that is gone or another
        one by now."""
        if self.library is not None and (kept := self.library.photo(image_id)) is not None:
            where, expected = str(self.library.file(kept.sha256)), kept.sha256
            data = Path(where).read_bytes()
        else:
            where, expected = self._address(image_id), image_id
            data = addresses.read(self.photo_root, where)
        if not hashlib.sha256(data).hexdigest().startswith(expected):
            raise OSError(f"{where} has changed since it was indexed; build the index again")
        return data

    def _address(self, image_id: str) -> str:
        return str(self.images.metadata([image_id])[0]["path"])


def _close(connections: list[sqlite3.Connection]) -> None:
    for connection in connections:
        connection.close()
