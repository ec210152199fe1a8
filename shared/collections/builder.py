"""Filling an index, in steps that survive being killed, and sealing it into an artifact."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from shared.artifacts import ArtifactError, IndexManifest, ModelManifest, hash_files, write_manifest
from shared.collections import items, sealed
from shared.collections.addresses import MEMBER, Root
from shared.collections.items import ITEMS, Item
from shared.collections.protocol import CAPTIONS, IMAGES
from shared.collections.sealed import DEFAULT, Sealing


@dataclass(frozen=True)
class Photo:
    """One file that was looked at: its item and its captions' items, or the ``problem`` that kept it out.

    ``path`` is an address under the photo root; ``size`` in bytes and ``mtime_ns`` tell later whether it has changed. A
    second copy of a photo has no item, but the ``image_id`` of the first.
    """

    path: str
    size: int
    mtime_ns: int
    captions: Sequence[str]
    image_id: str | None = None
    item: Item | None = None
    caption_items: Sequence[Item] = field(default=())
    problem: str | None = None


class IndexBuilder:
    """A working folder that an index grows in. What :meth:`add` has returned from stays, whatever happens next.

    Raises :class:`ArtifactError` when the folder belongs to another model or photo root.
    """

    def __init__(self, directory: Path, model: ModelManifest, photo_root: Root) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._model = model
        self._photo_root = photo_root if isinstance(photo_root, str) else str(photo_root.resolve())
        self._connection = items.connect(directory / ITEMS, writable=True)
        about = {"fingerprint": model.fingerprint, "photo_root": self._photo_root}
        try:
            with self._transaction():
                for key, value in about.items():
                    self._connection.execute("INSERT OR IGNORE INTO about VALUES (?, ?)", (key, value))
                found = dict(self._connection.execute("SELECT key, value FROM about"))
            if found != about:
                raise ArtifactError(
                    f"{directory} was begun with another model or photo folder ({found}); use another working folder "
                    "or delete it"
                )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> IndexBuilder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def knows(self, path: str, size: int, mtime_ns: int, captions: Sequence[str]) -> bool:
        """True when this file was looked at, has not changed since, and has the same captions."""
        row = self._connection.execute("SELECT size, mtime_ns, captions FROM files WHERE path = ?", (path,)).fetchone()
        return bool(row == (size, mtime_ns, _digest(captions)))

    def add(self, photos: Iterable[Photo]) -> None:
        """Record photos with their captions, all or none. A photo's older item and captions are replaced.

        Raises ValueError for an item that cannot be searched, :class:`ArtifactError` when nothing can be written.
        """
        dim, token_dim = self._model.embedding_dim, self._model.token_dim
        photos = list(photos)
        with self._transaction():
            # First of all: what one of them forgets may be what another one brings.
            for photo in photos:
                self._forget(photo.path)
            for photo in photos:
                if photo.item is not None:
                    items.upsert(self._connection, IMAGES, [photo.item], dim, token_dim)
                    items.upsert(self._connection, CAPTIONS, photo.caption_items, dim, token_dim)
                self._connection.execute(
                    "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        photo.path,
                        photo.size,
                        photo.mtime_ns,
                        _digest(photo.captions),
                        photo.item.id if photo.item else photo.image_id,
                        photo.problem,
                    ),
                )

    def keep_only(self, paths: Iterable[str]) -> set[str]:
        """Forget files that are not among ``paths``. Returns those."""
        known = {path for (path,) in self._connection.execute("SELECT path FROM files")}
        gone = known - set(paths)
        with self._transaction():
            for path in gone:
                self._forget(path)
        return gone

    def forget(self, image_ids: Iterable[str]) -> None:
        """Forget the files that these images were taken from: they are to be looked at again."""
        paths = [path for image_id in image_ids if (path := self.path_of(image_id)) is not None]
        with self._transaction():
            for path in paths:
                self._forget(path)

    def members(self, shard: str) -> dict[str, int]:
        """What was looked at inside a shard: each address with the shard's version then, as ``mtime_ns``."""
        # The first text after all that begin with the shard and the mark.
        first, last = f"{shard}{MEMBER}", f"{shard}{MEMBER[:-1]}{chr(ord(MEMBER[-1]) + 1)}"
        statement = "SELECT path, mtime_ns FROM files WHERE path >= ? AND path < ?"
        return dict(self._connection.execute(statement, (first, last)))

    def path_of(self, image_id: str) -> str | None:
        """The file that an image was taken from."""
        statement = "SELECT path FROM files WHERE image_id = ? AND problem IS NULL"
        row = self._connection.execute(statement, (image_id,)).fetchone()
        return row[0] if row else None

    def problems(self) -> list[tuple[str, str]]:
        """(path, problem) of the files that were left out."""
        return list(self._connection.execute("SELECT path, problem FROM files WHERE problem IS NOT NULL ORDER BY path"))

    def counts(self) -> dict[str, int]:
        return {name: items.count(self._connection, name) for name in (IMAGES, CAPTIONS)}

    def contents(self, library_seq: int = 0, sealing: Sealing = DEFAULT) -> str:
        """A digest of what has been built: equal digests mean that sealing again would give the same index."""
        how = sealing.digest(self.counts(), self._model.embedding_dim)
        digest = hashlib.sha256(f"{self._photo_root}{library_seq or ''}{how}".encode())
        statement = "SELECT path, captions, image_id FROM files WHERE problem IS NULL ORDER BY path"
        for row in self._connection.execute(statement):
            digest.update(repr(row).encode())
        return digest.hexdigest()

    def seal(
        self, target: Path, name: str, version: str, library_seq: int = 0, sealing: Sealing = DEFAULT
    ) -> IndexManifest:
        """Copy what is built so far into an artifact at ``target``, which must not exist. Building can go on after.

        ``library_seq`` is the last change of the library that went in; ``sealing`` says how it is to be searched.
        """
        if target.exists():
            raise ArtifactError(f"{target} already exists")
        beside = target.with_name(f".{target.name}.partial")
        shutil.rmtree(beside, ignore_errors=True)
        try:
            beside.mkdir(parents=True)
            self._connection.execute("VACUUM INTO ?", (str(beside / ITEMS),))
            with closing(sqlite3.connect(beside / ITEMS)) as copy:
                copy.execute("PRAGMA journal_mode = DELETE")
            counts, dim = self.counts(), self._model.embedding_dim
            shards = sealed.write(beside, counts, dim, sealing)
            manifest = IndexManifest(
                name=name,
                version=version,
                fingerprint=self._model.fingerprint,
                embedding_dim=dim,
                token_dim=self._model.token_dim,
                model=self._model.ref,
                photo_root=self._photo_root,
                collections=counts,
                contents=self.contents(library_seq, sealing),
                library_seq=library_seq,
                shards=shards,
                files=hash_files(beside),
            )
            write_manifest(beside, manifest)
            beside.rename(target)
        except (OSError, sqlite3.Error) as error:
            raise ArtifactError(f"writing the index to {target} failed: {error}") from error
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        return manifest

    def _forget(self, path: str) -> None:
        row = self._connection.execute("SELECT image_id, problem FROM files WHERE path = ?", (path,)).fetchone()
        if row is None:
            return
        self._connection.execute("DELETE FROM files WHERE path = ?", (path,))
        image_id, problem = row
        if image_id is None or problem is not None:
            return
        # Other copies of this photo were passed over for its sake: they are to be looked at again.
        self._connection.execute("DELETE FROM files WHERE image_id = ?", (image_id,))
        self._connection.execute("DELETE FROM items WHERE collection = ? AND id = ?", (IMAGES, image_id))
        self._connection.execute(
            "DELETE FROM items WHERE collection = ? AND json_extract(metadata, '$.image_id') = ?", (CAPTIONS, image_id)
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise ArtifactError(f"the working folder of the index cannot be written: {error}") from error


def _digest(captions: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(captions)).encode()).hexdigest()[:16]
