"""The item store, in real SQLite files."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shared.artifacts import ArtifactError
from shared.collections import Item, items
from shared.tokens import TokenFeatures
from tests.support.small import DIM, TOKEN_DIM, item


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "items.sqlite"


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(items.connect(path, writable=True)) as connection:
        yield connection


def put(connection: sqlite3.Connection, *new: Item, collection: str = "images") -> None:
    items.upsert(connection, collection, new, DIM, TOKEN_DIM)


def test_what_is_put_in_is_read_back(connection: sqlite3.Connection) -> None:
    new = [item(f"{n}", name=f"“{n}”.png", n=n) for n in range(5)]
    put(connection, *new)
    ids, vectors = items.vectors(connection, "images", DIM)
    assert ids == ["0", "1", "2", "3", "4"]
    assert (vectors == np.stack([one.vector for one in new])).all()
    assert items.metadata(connection, "images", ["3", "nobody", "1"]) == {"1": new[1].metadata, "3": new[3].metadata}
    first, second = items.tokens(connection, "images", ["4", "0"], TOKEN_DIM)
    assert (first.codes == new[4].tokens.codes).all()
    assert (second.scales == new[0].tokens.scales).all()


def test_the_tokens_of_nobody_are_a_key_error(connection: sqlite3.Connection) -> None:
    put(connection, item("a"))
    with pytest.raises(KeyError):
        items.tokens(connection, "images", ["a", "nobody"], TOKEN_DIM)


def test_collections_are_apart(connection: sqlite3.Connection) -> None:
    put(connection, item("a", of="images"))
    put(connection, item("a", of="captions"), item("b"), collection="captions")
    assert (items.count(connection, "images"), items.count(connection, "captions")) == (1, 2)
    assert items.metadata(connection, "captions", ["a"])["a"] == {"of": "captions"}
    assert items.vectors(connection, "others", DIM)[1].shape == (0, DIM)


def test_an_item_is_replaced_in_its_place(connection: sqlite3.Connection) -> None:
    put(connection, item("a", n=1), item("b"))
    put(connection, replace(item("other", n=2), id="a"))
    ids, vectors = items.vectors(connection, "images", DIM)
    assert ids == ["a", "b"]
    assert (vectors[0] == item("other").vector).all()
    assert items.metadata(connection, "images", ["a"])["a"] == {"n": 2}


def test_more_ids_than_a_statement_takes(connection: sqlite3.Connection) -> None:
    new = [item(f"{n:04}", n=n) for n in range(1700)]
    put(connection, *new)
    ids = [one.id for one in reversed(new)]
    assert len(items.metadata(connection, "images", ids)) == 1700
    assert (items.tokens(connection, "images", ids, TOKEN_DIM)[-1].codes == new[0].tokens.codes).all()


GOOD = item("good")


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (replace(GOOD, vector=np.full(DIM, np.nan, np.float32)), "of length nan, not 1"),
        (replace(GOOD, vector=np.full(DIM, np.inf, np.float32)), "of length inf, not 1"),
        (replace(GOOD, vector=np.zeros(DIM, np.float32)), r"of length 0\.0, not 1"),
        (replace(GOOD, vector=GOOD.vector * 2), r"of length (2|1\.99|2\.00)"),
        (replace(GOOD, vector=GOOD.vector[:-1]), r"float32 vector \(7,\), not float32 \(8,\)"),
        (replace(GOOD, vector=GOOD.vector.astype(np.float64)), "float64 vector"),
        (replace(GOOD, tokens=TokenFeatures.quantise(np.ones((2, 3)))), r"tokens \(2, 3\), not \(n, 4\)"),
        (
            replace(GOOD, tokens=TokenFeatures(np.ones((1, 4), np.int8), np.array([np.nan], np.float16))),
            "tokens with NaN or infinity",
        ),
    ],
)
def test_an_item_that_cannot_be_searched_is_refused(connection: sqlite3.Connection, bad: Item, says: str) -> None:
    with pytest.raises(ValueError, match=f"item 'good' has .*{says}"):
        put(connection, item("before"), bad)
    assert items.count(connection, "images") == 0


def test_reading_changes_nothing_and_needs_no_right_to_write(path: Path, connection: sqlite3.Connection) -> None:
    put(connection, item("a"))
    connection.execute("PRAGMA journal_mode = DELETE")
    path.chmod(0o444)
    with closing(items.connect(path, writable=False)) as reader:
        assert items.count(reader, "images") == 1
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            put(reader, item("b"))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("writable", [True, False])
def test_what_is_no_item_store_is_refused(path: Path, writable: bool) -> None:
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(ArtifactError, match=r"items\.sqlite is not an item store: file is not a database"):
        items.connect(path, writable=writable)


def test_reading_does_not_create(path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be opened"):
        items.connect(path, writable=False)
    assert not path.exists()


@pytest.mark.parametrize("name", ["a?mode=rw", "100%", "a#b", "ein Ö"])
def test_a_path_is_a_path_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    with closing(items.connect(tmp_path / name, writable=True)) as connection:
        put(connection, item("a"))
    assert (tmp_path / name).is_file()
    with closing(items.connect(tmp_path / name, writable=False)) as reader:
        assert items.count(reader, "images") == 1


def test_vectors_of_another_size_or_no_value_are_damage(connection: sqlite3.Connection) -> None:
    put(connection, item("a"))
    with pytest.raises(ArtifactError, match="item 'a' of images has 32 bytes of vector, not 36"):
        items.vectors(connection, "images", DIM + 1)
    connection.execute("UPDATE items SET vector = ?", (np.full(DIM, np.nan, np.float32).tobytes(),))
    with pytest.raises(ArtifactError, match="images holds vectors with NaN or infinity"):
        items.vectors(connection, "images", DIM)
