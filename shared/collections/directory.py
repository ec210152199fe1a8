"""A published index, opened for reading."""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shared.artifacts import ArtifactError, IndexManifest, read_manifest, verify_files
from shared.collections import items
from shared.collections.snapshot import Float32, Snapshot
from shared.tokens import TokenFeatures

IMAGES, CAPTIONS = "images", "captions"


class Collection:
    """One kind of item of an index: vectors in FAISS, everything else read from SQLite when asked for."""

    def __init__(self, name: str, path: Path, manifest: IndexManifest) -> None:
        self.name = name
        self._path = path
        self._token_dim = manifest.token_dim
        self._idle: list[sqlite3.Connection] = []
        weakref.finalize(self, _close, self._idle)  # once nobody is reading any more
        with self._connection() as connection:
            ids, vectors = items.vectors(connection, name, manifest.embedding_dim)
        if len(ids) != manifest.collections.get(name):
            raise ArtifactError(f"{path} has {len(ids)} {name}, its manifest says {manifest.collections.get(name)}")
        self.snapshot = Snapshot(ids, vectors)

    def __len__(self) -> int:
        return len(self.snapshot)

    def search(self, queries: Float32, k: int) -> tuple[Float32, list[list[str]]]:
        """Cosines (B, k') and ids of each query's best ``k' = min(k, n)``. Raises as :class:`Snapshot` does."""
        scores, rows = self.snapshot.search(queries, k)
        return scores, [[self.snapshot.ids[row] for row in line] for line in rows]

    def metadata(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """In the order of ``ids``. Raises KeyError for an id that does not exist."""
        with self._connection() as connection:
            found = items.metadata(connection, self.name, ids)
        return [found[item_id] for item_id in ids]

    def tokens(self, ids: Sequence[str]) -> list[TokenFeatures]:
        """In the order of ``ids``. Raises KeyError for an id that does not exist."""
        with self._connection() as connection:
            return items.tokens(connection, self.name, ids, self._token_dim)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """A connection that nobody else uses meanwhile; an idle one where there is one."""
        connection = self._idle.pop() if self._idle else items.connect(self._path, writable=False)
        try:
            yield connection
        finally:
            self._idle.append(connection)


class IndexDirectory:
    """An index artifact. ``photo_root`` is where its photos lie, as recorded or as told to :meth:`open`."""

    def __init__(self, manifest: IndexManifest, images: Collection, captions: Collection, photo_root: Path) -> None:
        self.manifest = manifest
        self.images = images
        self.captions = captions
        self.photo_root = photo_root

    @staticmethod
    def open(directory: Path, *, photo_root: Path | None = None) -> IndexDirectory:
        """Check an artifact's files and read its vectors. Raises :class:`ArtifactError` when they are damaged."""
        manifest = read_manifest(directory)
        if not isinstance(manifest, IndexManifest):
            raise ArtifactError(f"{directory} holds a {manifest.kind}, not an index")
        verify_files(directory, manifest)
        try:
            images, captions = (Collection(name, directory / items.ITEMS, manifest) for name in (IMAGES, CAPTIONS))
        except sqlite3.Error as error:
            raise ArtifactError(f"{directory / items.ITEMS} cannot be read: {error}") from error
        return IndexDirectory(manifest, images, captions, photo_root or Path(manifest.photo_root))

    def collection(self, name: str) -> Collection:
        """``images`` or ``captions``. Raises KeyError."""
        return {IMAGES: self.images, CAPTIONS: self.captions}[name]

    def photo(self, image_id: str) -> Path:
        """The photo's file. Raises KeyError for an unknown id and FileNotFoundError when it is not under the root."""
        recorded = str(self.images.metadata([image_id])[0]["path"])
        try:
            root = self.photo_root.resolve()
            path = (root / recorded).resolve()
        except RuntimeError as error:  # a loop of links
            raise FileNotFoundError(f"photo {image_id} cannot be found: {error}") from error
        if not path.is_relative_to(root) or not path.is_file():
            raise FileNotFoundError(f"photo {image_id} is no longer at {recorded} under the photo folder")
        return path


def _close(connections: list[sqlite3.Connection]) -> None:
    for connection in connections:
        connection.close()
