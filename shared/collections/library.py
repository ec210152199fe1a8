"""What people put into a collection while it is served: the photos themselves, and what a model made of them.

A library is the truth about these photos, an index only holds what can be searched of them: it reads the changes that
came after it was built, and the next build takes them in. It is a folder::

    library.sqlite      photos (one row for each id, also a removed one) and items (vectors and tokens, by model)
    photos/ab/<sha256>  files as they came

Every change has a number, ``seq``. What :meth:`Library.commit` has returned from is on the disk.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import sqlite3
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from shared.artifacts import ArtifactError
from shared.artifacts.manifest import sync_directory
from shared.collections import items
from shared.collections.items import Float32, Item
from shared.tokens import TokenFeatures

LIBRARIES = "libraries"  # the folder of a store that holds one for each name of an index
LIBRARY = "library.sqlite"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS photos (
    id TEXT PRIMARY KEY,
    seq INTEGER NOT NULL UNIQUE,
    sha256 TEXT,
    about TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS photos_by_content ON photos (sha256);
CREATE TABLE IF NOT EXISTS items (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    photo TEXT NOT NULL,
    seq INTEGER NOT NULL,
    fingerprint TEXT NOT NULL,
    collection TEXT NOT NULL,
    id TEXT NOT NULL,
    metadata TEXT NOT NULL,
    vector BLOB NOT NULL,
    codes BLOB NOT NULL,
    scales BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS items_by_photo ON items (photo, fingerprint);
"""
_GRACE_SECONDS = 60.0
_FILES_AT_ONCE = 8


class FullError(ArtifactError):
    """There is no room on the disk. Nothing was changed."""


@dataclass(frozen=True)
class Photo:
    """``about`` is JSON-able: ``name``, ``captions``, ``tags``, ``metadata``, ``bytes``, ``media_type``."""

    id: str
    sha256: str
    about: dict[str, Any]


@dataclass(frozen=True)
class Put:
    """A new or a replaced photo, its file's bytes being ``data``; ``about`` is as :class:`Photo` has it, and ``items``
    are what the model of ``fingerprint`` made of it, by collection."""

    id: str
    data: bytes
    about: dict[str, Any]
    fingerprint: str
    items: dict[str, list[Item]]

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True)
class Remove:
    id: str


@dataclass(frozen=True)
class Embedded:
    """What another model made of a photo that is there since ``seq``; forgotten when it was changed meanwhile."""

    id: str
    seq: int
    fingerprint: str
    items: dict[str, list[Item]]


Change = Put | Remove | Embedded


@dataclass(frozen=True)
class Row:
    """An item as it is stored: ``number`` finds it again."""

    number: int
    collection: str
    id: str
    vector: Float32
    tags: list[str]


@dataclass(frozen=True)
class News:
    """The last change of a photo. ``rows`` is None for a removed photo, and empty when no model has seen it;
    ``metadata`` is what was said of the photo."""

    seq: int
    id: str
    rows: list[Row] | None = field(default=None)
    metadata: dict[str, Any] = field(default_factory=dict)


class LibraryReader:
    """A library that somebody else may be writing to. Raises :class:`ArtifactError` when it cannot be read."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._idle: list[sqlite3.Connection] = []

    @property
    def exists(self) -> bool:
        return (self.directory / LIBRARY).exists()

    def revision(self) -> int:
        """The number of the last change, 0 before the first."""
        if not self.exists:
            return 0
        with self._connection() as connection:
            return int(connection.execute("SELECT coalesce(max(seq), 0) FROM photos").fetchone()[0])

    def news(self, since: int, fingerprint: str, dim: int) -> Iterator[News]:
        """The photos that changed after ``since``, in that order, with the items that the model of ``fingerprint`` has
        made of them: vectors float32 (D,)."""
        if not self.exists:
            return
        with self._connection() as connection:
            changed = connection.execute(
                "SELECT seq, id, sha256, json_extract(about, '$.metadata') FROM photos WHERE seq > ? ORDER BY seq",
                (since,),
            )
            for seq, photo, sha256, said in changed.fetchall():
                rows = None if sha256 is None else self._rows(connection, photo, seq, fingerprint, dim)
                yield News(seq, photo, rows, json.loads(said) if said else {})

    def _rows(self, connection: sqlite3.Connection, photo: str, seq: int, fingerprint: str, dim: int) -> list[Row]:
        found = connection.execute(
            "SELECT number, collection, id, vector, json_extract(metadata, '$.tags') FROM items "
            "WHERE photo = ? AND fingerprint = ? AND seq = ? ORDER BY number",
            (photo, fingerprint, seq),
        )
        rows = [
            Row(number, name, item, np.frombuffer(blob, np.float32), json.loads(tags) if tags else [])
            for number, name, item, blob, tags in found
        ]
        if any(len(row.vector) != dim for row in rows):
            raise ArtifactError(f"{self.directory / LIBRARY}: photo {photo} has vectors of another length than {dim}")
        return rows

    def metadata(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """In the order of ``numbers``. Raises KeyError for one that is gone."""
        with self._connection() as connection:
            found = dict(items.by_number(connection, "number, metadata", numbers))
        return [json.loads(found[number]) for number in numbers]

    def tokens(self, numbers: Sequence[int], token_dim: int) -> list[TokenFeatures]:
        """In the order of ``numbers``. Raises KeyError for one that is gone."""
        with self._connection() as connection:
            found = {
                number: items.as_tokens(codes, scales, token_dim)
                for number, codes, scales in items.by_number(connection, "number, codes, scales", numbers)
            }
        return [found[number] for number in numbers]

    def numbered(self, numbers: Sequence[int], token_dim: int) -> dict[str, Item]:
        """Items by id; those that are gone are left out."""
        with self._connection() as connection:
            rows = items.by_number(connection, items.ITEM_COLUMNS, numbers)
            return {row[0]: items.as_item(row, token_dim) for row in rows}

    def items(self, photo: str, fingerprint: str, token_dim: int) -> dict[str, list[Item]]:
        """What the model of ``fingerprint`` has made of a photo as it is now, by collection; nothing if it has not."""
        found: dict[str, list[Item]] = {}
        with self._connection() as connection:
            rows = connection.execute(
                "SELECT collection, items.id, metadata, vector, codes, scales FROM items "
                "JOIN photos ON photos.id = photo AND photos.seq = items.seq "
                "WHERE photo = ? AND fingerprint = ? ORDER BY number",
                (photo, fingerprint),
            )
            for collection, *row in rows:
                found.setdefault(collection, []).append(items.as_item(tuple(row), token_dim))
        return found

    def photo(self, photo: str) -> Photo | None:
        """Raises KeyError for a photo that was removed; None for one that was never here."""
        if not self.exists:
            return None
        with self._connection() as connection:
            row = connection.execute("SELECT sha256, about FROM photos WHERE id = ?", (photo,)).fetchone()
        if row is None:
            return None
        if row[0] is None:
            raise KeyError(photo)
        return Photo(photo, row[0], json.loads(row[1]))

    def page(self, after: str, limit: int) -> list[tuple[str, bool]]:
        """Ids that follow ``after``, in order, each with whether it is there or was removed."""
        if not self.exists:
            return []
        with self._connection() as connection:
            statement = "SELECT id, sha256 IS NOT NULL FROM photos WHERE id > ? ORDER BY id LIMIT ?"
            return [(found, bool(there)) for found, there in connection.execute(statement, (after, limit))]

    def same_content(self, sha256: str) -> list[str]:
        """Ids of the photos with these bytes."""
        if not self.exists:
            return []
        with self._connection() as connection:
            return [one for (one,) in connection.execute("SELECT id FROM photos WHERE sha256 = ?", (sha256,))]

    def known(self) -> dict[str, int]:
        """The ``seq`` of every id that was ever here, removed ones included."""
        if not self.exists:
            return {}
        with self._connection() as connection:
            return dict(connection.execute("SELECT id, seq FROM photos"))

    def file(self, sha256: str) -> Path:
        return self.directory / "photos" / sha256[:2] / sha256

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = _open(self.directory / LIBRARY, "ro")
            try:
                yield connection
            finally:
                self._idle.append(connection)
        except sqlite3.Error as error:
            raise ArtifactError(f"{self.directory / LIBRARY} cannot be read: {error}") from error

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()


class Library(LibraryReader):
    """The one writer of a library. Raises :class:`ArtifactError` when there is another, or it cannot be written."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = (directory / "lock").open("w")
        except OSError as error:
            raise ArtifactError(f"{directory} cannot be written: {error}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise ArtifactError(f"another process writes to {directory}: stop it first") from error
        try:
            if not self.exists:  # and then with its tables at once: somebody may be reading
                _begin(directory / "begun.sqlite").replace(directory / LIBRARY)
                sync_directory(directory)
            self._writer = _open(directory / LIBRARY, "rw")
            self._writer.execute("PRAGMA synchronous = FULL")
            self._writer.executescript(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            self._lock.close()
            raise ArtifactError(f"{directory / LIBRARY} cannot be written: {error}") from error
        self._over: deque[tuple[float, str, int, str | None]] = deque()
        self._files = ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="photo-file")
        self._sweep()

    def close(self) -> None:
        super().close()
        self._files.shutdown()
        self._writer.close()
        self._lock.close()

    def compact(self) -> int:
        """Give back to the disk what removed and replaced photos have left. Returns how many bytes that were.

        Readers go on meanwhile, but for one that is still reading what was replaced: it is for when nothing is served.
        What a kill or a full disk interrupts has changed nothing: SQLite replaces its pages in one transaction.
        """
        before = self._size()
        self._over.clear()
        try:
            self._sweep()
            self._writer.execute("VACUUM")
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except (sqlite3.Error, OSError) as error:
            raise _refused(f"{self.directory} cannot be compacted", error) from error
        return max(0, before - self._size())

    def _size(self) -> int:
        return sum(path.stat().st_size for path in self.directory.rglob("*") if path.is_file())

    def commit(self, changes: Sequence[Change], after: int = 0) -> list[int | None]:
        """Record changes, all or none. The number of each, over ``after``; None for one that had nothing to change.

        An index is told of changes over the number of the last that went into it: a library that was lost and begun
        anew has to go on from there.
        """
        # Files first, so that no row ever lacks one. Nothing else removes files meanwhile: this is the one writer.
        self._keep({change.sha256: change.data for change in changes if isinstance(change, Put)})
        numbers: list[int | None] = []
        over: list[tuple[float, str, int, str | None]] = []
        try:
            with _transaction(self._writer):
                for change in changes:
                    numbers.append(self._apply(change, after, over))
        except (sqlite3.Error, OSError) as error:
            raise _refused(f"{self.directory} cannot be written", error) from error
        self._over.extend(over)
        with suppress(sqlite3.Error, OSError):  # there will be another time
            self._forget(time.monotonic() - _GRACE_SECONDS)
        return numbers

    def _keep(self, photos: Mapping[str, bytes]) -> None:
        """Put photos' files, by SHA-256, on the disk. Folders come last, for the first of them makes the file system
        write what all need."""
        new = [(path, data) for sha256, data in photos.items() if not (path := self.file(sha256)).exists()]
        folders = {folder for path, _ in new for folder in (path.parent, path.parent.parent)}
        try:
            list(self._files.map(_write, new))
            list(self._files.map(sync_directory, folders))
        except OSError as error:
            raise _refused(f"{self.directory / 'photos'} cannot be written", error) from error

    def _apply(self, change: Change, after: int, over: list[tuple[float, str, int, str | None]]) -> int | None:
        photo = change.id
        before = self._writer.execute("SELECT seq, sha256 FROM photos WHERE id = ?", (photo,)).fetchone()
        if isinstance(change, Embedded):
            if before is None or before[0] != change.seq:
                return None
        elif isinstance(change, Remove) and before is not None and before[1] is None:
            return None
        elif before is not None:
            over.append((time.monotonic(), photo, before[0], before[1]))
        seq = 1 + max(after, int(self._writer.execute("SELECT coalesce(max(seq), 0) FROM photos").fetchone()[0]))
        row = (change.sha256, json.dumps(change.about, ensure_ascii=False)) if isinstance(change, Put) else (None, None)
        if isinstance(change, Embedded):
            # It is news of the same photo; what other models made of it stays good.
            self._writer.execute("UPDATE photos SET seq = ? WHERE id = ?", (seq, photo))
            self._writer.execute("UPDATE items SET seq = ? WHERE photo = ? AND seq = ?", (seq, photo, change.seq))
        else:
            self._writer.execute("INSERT OR REPLACE INTO photos VALUES (?, ?, ?, ?)", (photo, seq, *row))
        if not isinstance(change, Remove):
            self._writer.executemany(
                "INSERT INTO items (photo, seq, fingerprint, collection, id, metadata, vector, codes, scales) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (photo, seq, change.fingerprint, collection, *items.as_row(item))
                    for collection, some in change.items.items()
                    for item in some
                ],
            )
        return seq

    def _forget(self, until: float) -> None:
        """What was replaced so long ago that no search can still be reading it."""
        while self._over and self._over[0][0] <= until:
            _, photo, seq, sha256 = self._over.popleft()
            with _transaction(self._writer):
                self._writer.execute("DELETE FROM items WHERE photo = ? AND seq = ?", (photo, seq))
            if sha256 is not None and not self.same_content(sha256):
                self.file(sha256).unlink(missing_ok=True)

    def _sweep(self) -> None:
        """What was replaced, or half put, before a stop or a crash."""
        with _transaction(self._writer):
            self._writer.execute(
                "DELETE FROM items WHERE NOT EXISTS (SELECT 1 FROM photos WHERE id = photo AND photos.seq = items.seq)"
            )
        used = {sha256 for (sha256,) in self._writer.execute("SELECT sha256 FROM photos WHERE sha256 IS NOT NULL")}
        for path in self.directory.glob("photos/*/*"):
            if path.name not in used:
                path.unlink(missing_ok=True)


def _open(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA busy_timeout = 10000")
    return connection


def _write(file_of: tuple[Path, bytes]) -> None:
    """Its bytes are on the disk when it returns, its name not yet."""
    path, data = file_of
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _begin(path: Path) -> Path:
    """An empty library's database at ``path``, whatever a crash has left there."""
    for left in path.parent.glob(f"{path.name}*"):
        left.unlink()
    with closing(_open(path, "rwc")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(_SCHEMA)
    return path


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _refused(what: str, error: Exception) -> ArtifactError:
    full = getattr(error, "sqlite_errorname", "") == "SQLITE_FULL" or getattr(error, "errno", None) in (
        errno.ENOSPC,
        errno.EDQUOT,
    )
    return (FullError if full else ArtifactError)(f"{what}: {error}")
