"""The item store: one SQLite file that holds, per item, its metadata, its vector and its token features."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from shared.artifacts import ArtifactError
from shared.tokens import TokenFeatures

ITEMS = "items.sqlite"
Float32 = npt.NDArray[np.float32]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS items (
    number INTEGER PRIMARY KEY,
    collection TEXT NOT NULL,
    id TEXT NOT NULL,
    metadata TEXT NOT NULL,
    vector BLOB NOT NULL,
    codes BLOB NOT NULL,
    scales BLOB NOT NULL,
    UNIQUE (collection, id)
);
CREATE TABLE IF NOT EXISTS files (
    path TEXT PRIMARY KEY,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    captions TEXT NOT NULL,
    image_id TEXT,
    problem TEXT
);
CREATE INDEX IF NOT EXISTS files_by_image ON files (image_id);
CREATE INDEX IF NOT EXISTS items_by_image ON items (collection, json_extract(metadata, '$.image_id'));
CREATE INDEX IF NOT EXISTS items_with_tags ON items (collection, json_extract(metadata, '$.tags'))
    WHERE json_extract(metadata, '$.tags') <> '[]';
CREATE INDEX IF NOT EXISTS items_with_metadata ON items (collection, id, json_extract(metadata, '$.metadata'))
    WHERE json_extract(metadata, '$.metadata') <> '{}';
"""
_LENGTH_TOLERANCE = 1e-3
ITEM_COLUMNS = "id, metadata, vector, codes, scales"


@dataclass(frozen=True)
class Item:
    """``vector`` float32 (D,), a unit vector; ``metadata`` a JSON-able object."""

    id: str
    metadata: dict[str, Any]
    vector: Float32
    tokens: TokenFeatures


def connect(path: Path, *, writable: bool) -> sqlite3.Connection:
    """Open an item store. A writable one is created when missing, and what it commits survives a power cut.

    A read-only one may be handed from thread to thread. Raises :class:`ArtifactError` when the file is not one.
    """
    # Published files never change, so reading needs no locks and the folder may be read-only.
    where = path.resolve().as_uri() + ("" if writable else "?mode=ro&immutable=1")
    try:
        connection = sqlite3.connect(where, uri=True, isolation_level=None, check_same_thread=writable)
    except sqlite3.Error as error:
        raise ArtifactError(f"{path} cannot be opened: {error}") from error
    try:
        if writable:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(_SCHEMA)
        else:
            connection.execute("SELECT count(*) FROM about").fetchone()
    except sqlite3.Error as error:
        connection.close()
        raise ArtifactError(f"{path} is not an item store: {error}") from error
    return connection


def upsert(connection: sqlite3.Connection, collection: str, items: Iterable[Item], dim: int, token_dim: int) -> None:
    """Insert or replace within the caller's transaction. Raises ValueError for an item that cannot be searched."""
    rows = []
    for item in items:
        check(item, dim, token_dim)
        rows.append((collection, *as_row(item)))
    connection.executemany(
        "INSERT INTO items (collection, id, metadata, vector, codes, scales) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (collection, id) DO UPDATE SET metadata = excluded.metadata, vector = excluded.vector, "
        "codes = excluded.codes, scales = excluded.scales",
        rows,
    )


class Part(NamedTuple):
    """Some items: ``numbers`` in rising order, ``vectors`` (n, D)."""

    ids: list[str]
    numbers: list[int]
    vectors: Float32


def vectors_by(connection: sqlite3.Connection, collection: str, dim: int, n: int) -> Iterator[Part]:
    """A collection, oldest first, ``n`` items at a time. Raises :class:`ArtifactError` for damaged vectors."""
    found = connection.execute(
        "SELECT id, number, vector FROM items WHERE collection = ? ORDER BY number", (collection,)
    )
    while rows := found.fetchmany(n):
        for item_id, _, vector in rows:
            if len(vector) != 4 * dim:
                raise ArtifactError(
                    f"item {item_id!r} of {collection} has {len(vector)} bytes of vector, not {4 * dim}"
                )
        ids, numbers, blobs = zip(*rows, strict=True)
        yield Part(list(ids), list(numbers), np.frombuffer(b"".join(blobs), np.float32).reshape(len(ids), dim))


def vectors(connection: sqlite3.Connection, collection: str, dim: int) -> tuple[list[str], Float32]:
    """Ids and vectors (n, D) of a collection, oldest first. Raises :class:`ArtifactError` for damaged vectors."""
    ids: list[str] = []
    parts = [np.empty((0, dim), np.float32)]
    for part in vectors_by(connection, collection, dim, 8192):
        ids += part.ids
        parts.append(part.vectors)
    array = np.concatenate(parts)
    if not np.isfinite(array).all():
        raise ArtifactError(f"{collection} holds vectors with NaN or infinity; build the index again")
    return ids, array


def numbers(connection: sqlite3.Connection, collection: str) -> npt.NDArray[np.int64]:
    """(n,) of the rows of :func:`vectors`."""
    found = connection.execute("SELECT number FROM items WHERE collection = ? ORDER BY number", (collection,))
    return np.fromiter((number for (number,) in found), np.int64)


def longest_id(connection: sqlite3.Connection, collection: str) -> int:
    """In bytes."""
    statement = "SELECT coalesce(max(length(CAST(id AS BLOB))), 0) FROM items WHERE collection = ?"
    return int(connection.execute(statement, (collection,)).fetchone()[0])


def metadata(connection: sqlite3.Connection, collection: str, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Metadata by id; ids that do not exist are left out."""
    found = _by_id(connection, "id, metadata", collection, ids)
    return {item_id: json.loads(text) for item_id, text in found}


def tokens(connection: sqlite3.Connection, collection: str, ids: Sequence[str], token_dim: int) -> list[TokenFeatures]:
    """Token features in the order of ``ids``. Raises KeyError for an id that does not exist."""
    found = {
        item_id: as_tokens(codes, scales, token_dim)
        for item_id, codes, scales in _by_id(connection, "id, codes, scales", collection, ids)
    }
    return [found[item_id] for item_id in ids]


def items(connection: sqlite3.Connection, collection: str, ids: Sequence[str], token_dim: int) -> dict[str, Item]:
    """Items by id; ids that do not exist are left out."""
    return {row[0]: as_item(row, token_dim) for row in _by_id(connection, ITEM_COLUMNS, collection, ids)}


def tags(connection: sqlite3.Connection, collection: str) -> Iterator[tuple[int, list[str]]]:
    """The numbers of the items that have tags, and those."""
    statement = (
        "SELECT number, json_extract(metadata, '$.tags') FROM items "
        "WHERE collection = ? AND json_extract(metadata, '$.tags') <> '[]' ORDER BY number"
    )
    for number, own in connection.execute(statement, (collection,)):
        yield number, json.loads(own)


def photo_metadata(connection: sqlite3.Connection, collection: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The numbers of the items of whose photo something was said, and that; captions have their photo's."""
    said = "json_extract(photo.metadata, '$.metadata')"
    statement = f"FROM items AS photo WHERE photo.collection = 'images' AND {said} <> '{{}}'"
    if collection == "images":
        statement = f"SELECT number, {said} {statement}"
    else:
        # Without the sign, the id's being a text would keep SQLite from the index.
        own = "own.collection = ? AND json_extract(own.metadata, '$.image_id') = +photo.id"
        statement = f"SELECT own.number, {said} {statement.replace('WHERE', f'CROSS JOIN items AS own ON {own} WHERE')}"
    for number, text in connection.execute(statement, () if collection == "images" else (collection,)):
        yield number, json.loads(text)


def page(connection: sqlite3.Connection, after: str, limit: int) -> list[str]:
    """Ids of the photos that follow ``after``, in order."""
    statement = "SELECT id FROM items WHERE collection = 'images' AND id > ? ORDER BY id LIMIT ?"
    return [found for (found,) in connection.execute(statement, (after, limit))]


def captions(connection: sqlite3.Connection, photo: str) -> list[str]:
    """What is said of a photo."""
    statement = (
        "SELECT json_extract(metadata, '$.caption') FROM items "
        "WHERE collection = 'captions' AND json_extract(metadata, '$.image_id') = ? ORDER BY number"
    )
    return [found for (found,) in connection.execute(statement, (photo,))]


def numbers_of_photo(connection: sqlite3.Connection, collection: str, photo: str) -> list[int]:
    """Of a photo's own item (``images``) or its captions'."""
    own = "id" if collection == "images" else "json_extract(metadata, '$.image_id')"
    statement = f"SELECT number FROM items WHERE collection = ? AND {own} = ?"  # noqa: S608  (no values)
    return [number for (number,) in connection.execute(statement, (collection, photo))]


def as_row(item: Item) -> tuple[str, str, bytes, bytes, bytes]:
    """``id, metadata, vector, codes, scales`` as they are stored."""
    metadata = json.dumps(item.metadata, ensure_ascii=False)
    return item.id, metadata, item.vector.tobytes(), item.tokens.codes.tobytes(), item.tokens.scales.tobytes()


def as_item(row: tuple[Any, ...], token_dim: int) -> Item:
    """From :data:`ITEM_COLUMNS`."""
    item_id, metadata, vector, codes, scales = row
    features = as_tokens(codes, scales, token_dim)
    return Item(item_id, json.loads(metadata), np.frombuffer(vector, np.float32), features)


def as_tokens(codes: bytes, scales: bytes, token_dim: int) -> TokenFeatures:
    return TokenFeatures(np.frombuffer(codes, np.int8).reshape(-1, token_dim), np.frombuffer(scales, np.float16))


def count(connection: sqlite3.Connection, collection: str) -> int:
    number: int = connection.execute("SELECT count(*) FROM items WHERE collection = ?", (collection,)).fetchone()[0]
    return number


def by_number(connection: sqlite3.Connection, columns: str, numbers: Sequence[int]) -> Iterator[tuple[Any, ...]]:
    """``columns`` of the items with these numbers, in any order."""
    return _among(connection, f"SELECT {columns} FROM items WHERE number IN", numbers)  # noqa: S608  (no values)


def _by_id(
    connection: sqlite3.Connection, columns: str, collection: str, ids: Sequence[str]
) -> Iterator[tuple[Any, ...]]:
    statement = f"SELECT {columns} FROM items WHERE collection = ? AND id IN"  # noqa: S608  (no values)
    return _among(connection, statement, ids, collection)


def _among(
    connection: sqlite3.Connection, statement: str, values: Sequence[str | int], *first: str
) -> Iterator[tuple[Any, ...]]:
    for start in range(0, len(values), 500):  # under SQLite's limit on variables in a statement
        part = values[start : start + 500]
        yield from connection.execute(f"{statement} ({','.join('?' * len(part))})", (*first, *part))


def check(item: Item, dim: int, token_dim: int) -> None:
    """Raises ValueError for an item that cannot be searched."""
    if item.vector.shape != (dim,) or item.vector.dtype != np.float32:
        raise ValueError(f"item {item.id!r} has a {item.vector.dtype} vector {item.vector.shape}, not float32 ({dim},)")
    length = float(np.linalg.norm(item.vector))
    if not abs(length - 1) <= _LENGTH_TOLERANCE:  # catches NaN too
        raise ValueError(f"item {item.id!r} has a vector of length {length}, not 1")
    if item.tokens.codes.shape != (len(item.tokens), token_dim):
        raise ValueError(f"item {item.id!r} has tokens {item.tokens.codes.shape}, not (n, {token_dim})")
    if not np.isfinite(item.tokens.scales).all():
        raise ValueError(f"item {item.id!r} has tokens with NaN or infinity")
