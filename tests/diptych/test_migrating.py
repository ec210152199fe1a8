"""``diptych index migrate``: there and back, cut off, and not as it should be."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from diptych.cli import app
from shared.artifacts import ArtifactError, ArtifactStore, Ref
from shared.collections import LIBRARIES, IndexDirectory, Item, Library, items
from shared.collections.library import Remove
from shared.collections.migration import copy, in_files, in_milvus, verify
from shared.filters import Filter
from shared.settings import MilvusSettings
from tests.support.engines import all_ids, put
from tests.support.small import DIM, vectors, write_index, write_model, write_photos

FIRST = Ref("photos", "1")


class Shelf:
    def __init__(self, folder: Path, milvus: str) -> None:
        self.folder = folder
        self.milvus = milvus
        self.store = ArtifactStore(folder / "store")
        self.model = write_model(folder / "model")
        self.store.publish(folder / "model")
        write_photos(folder / "photos", 5)
        write_index(folder / "work", folder / "index", folder / "photos", self.model)
        self.store.publish(folder / "index")
        self.store.activate(Ref("small", "1"), FIRST)

    def migrate(self, *arguments: str, code: int = 0) -> str:
        command = ["index", "migrate", *arguments, "--store", str(self.store.root), "--index-dir"]
        result = CliRunner().invoke(app, [*command, str(self.folder / "build")], env={"COLUMNS": "300"})
        assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
        return result.output

    def rows(self, version: str) -> list[tuple[object, ...]]:
        """What is in an embedded version, in order."""
        path = self.store.path("index", Ref("photos", version)) / items.ITEMS
        with closing(sqlite3.connect(path)) as connection:
            return connection.execute(
                "SELECT collection, id, metadata, vector, codes, scales FROM items ORDER BY collection, number"
            ).fetchall()

    def open(self, version: str, library: Library | None = None) -> IndexDirectory:
        return IndexDirectory.open(self.store.path("index", Ref("photos", version)), library=library)


@pytest.fixture
def shelf(tmp_path: Path, milvus_uri: str) -> Shelf:
    return Shelf(tmp_path, milvus_uri)


def test_an_index_goes_to_milvus_and_back_and_nothing_is_lost(shelf: Shelf) -> None:
    assert "index photos/2 is being served" in shelf.migrate("photos/1", "--to", "milvus", "--uri", shelf.milvus)
    one, two = (shelf.store.index(Ref("photos", version)) for version in "12")
    kept = {"fingerprint", "photo_root", "library_seq", "collections", "contents", "model"}
    assert two.model_dump(include=kept) == one.model_dump(include=kept)
    assert two.engine is not None
    assert two.files == {}
    queries = vectors(3, 4)
    for name in ("images", "captions"):
        before, after = (shelf.open(version).collection(name).search(queries, 7) for version in "12")
        np.testing.assert_allclose(before[0], after[0], atol=1e-6)
        assert before[1] == after[1]
    shelf.migrate("photos/2", "--to", "embedded", "--no-activate")
    assert shelf.rows("3") == shelf.rows("1")
    assert shelf.store.index(Ref("photos", "3")).engine is None
    current = shelf.store.current()
    assert current is not None
    assert current.index == "photos/2"
    assert not list((shelf.folder / "build").iterdir())


def test_what_was_put_in_is_there_on_either_side(shelf: Shelf) -> None:
    library = Library(shelf.store.root / LIBRARIES / "photos")
    base = all_ids(shelf.open("1"))
    library.commit([put(shelf.model, "mine", "first", captions=12), Remove(base[0]), put(shelf.model, base[1], "new")])
    shelf.migrate("photos/1", "--to", "milvus", "--uri", shelf.milvus)
    shelf.open("2", library)
    library.commit([put(shelf.model, "late", "second")])
    shelf.migrate("photos/2", "--to", "embedded")
    for version in "123":
        opened = shelf.open(version, library)
        assert set(all_ids(opened)) == {*base, "mine", "late"} - {base[0]}
        texts = [about["caption"] for about in opened.captions.metadata([f"{base[1]}-0", "late-0"])]
        assert texts == ["new", "second"]
    captions = shelf.open("3").images.published("mine")["captions"]
    assert captions == ["first"] * 12
    library.close()


def test_what_was_cut_off_goes_on(tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.collections.migration._AT_ONCE", 2)
    written: list[int] = []

    def stop(done: int) -> None:
        written.append(done)
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("rich.progress.Progress.advance", lambda _self, _task, done: stop(done))
    shelf.migrate("photos/1", "--to", "milvus", "--uri", shelf.milvus, code=130)
    assert len(shelf.store.published("index")) == 1
    upserts: list[int] = []
    from shared.collections.milvus_items import MilvusItems

    upsert = MilvusItems.upsert

    def counted(self: MilvusItems, some: list[object]) -> None:
        upserts.append(len(some))
        upsert(self, some)  # type: ignore[arg-type]

    monkeypatch.setattr(MilvusItems, "upsert", counted)
    shelf.migrate("photos/1", "--to", "milvus", "--uri", shelf.milvus)
    assert sum(upserts) == 15 - 4
    written.clear()
    shelf.migrate("photos/2", "--to", "embedded", code=130)
    assert len(shelf.store.published("index")) == 2
    shelf.migrate("photos/2", "--to", "embedded")
    assert shelf.rows("3") == shelf.rows("1")
    # And one that was done is not done again.
    assert "there already, as photos/2" in shelf.migrate("photos/1", "--to", "milvus", "--uri", shelf.milvus)


@pytest.mark.parametrize("damage", ["vector", "tokens", "metadata", "one is missing"])
def test_a_damaged_copy_is_noticed(shelf: Shelf, damage: str) -> None:
    shelf.migrate("photos/1", "--to", "milvus", "--uri", shelf.milvus, "--no-activate")
    one, two = (shelf.store.index(Ref("photos", version)) for version in "12")
    source = in_files(shelf.store.path("index", FIRST), one)
    target = in_milvus(two, MilvusSettings())
    verify(source, target, one.collections)
    captions = target["captions"]
    chosen = captions.page("", 4)[3]
    row = captions.as_row(captions.stored([chosen])[chosen])
    if damage == "one is missing":
        captions.delete(f"id in {json.dumps([chosen])}")
    else:
        changes = {"vector": vectors(5, 1, DIM)[0], "tokens": "AAAA" + row["tokens"][4:], "metadata": "{}"}
        captions._client.upsert(captions.name, [{**row, damage: changes[damage]}])
    says = "has 9 captions, the index 10" if damage == "one is missing" else f"in the {damage} of '{chosen}'"
    with pytest.raises(ArtifactError, match=says):
        verify(source, target, one.collections)
    copy(source, target, one.collections)
    verify(source, target, one.collections)


def test_a_copy_that_does_not_match_is_not_published(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    real = items.as_tokens
    monkeypatch.setattr(
        "shared.collections.milvus_items.MilvusItems.as_tokens",
        lambda _self, _row: real(b"\1\2\3\4" * 3, b"\0\1" * 3, 4),
    )
    said = shelf.migrate("photos/1", "--to", "milvus", "--uri", shelf.milvus, code=1)
    assert "differs from the index in the tokens of" in said
    assert len(shelf.store.published("index")) == 1
    assert shelf.store.current() is not None
    assert str(shelf.store.current().index) == "photos/1"  # type: ignore[union-attr]


def test_filters_work_on_what_was_built_with_metadata(shelf: Shelf) -> None:
    path = shelf.store.path("index", FIRST)
    with closing(sqlite3.connect(path / items.ITEMS)) as connection, connection:
        where = "collection = 'images' AND number IN (SELECT number FROM items WHERE collection = 'images' LIMIT 2)"
        said = "metadata = json_set(metadata, '$.metadata', json('{\"year\": 2021}'), '$.tags', json('[\"sea\"]'))"
        connection.execute(f"UPDATE items SET {said} WHERE {where}")
    from shared.artifacts import hash_files, read_manifest, write_manifest

    write_manifest(path, read_manifest(path).model_copy(update={"files": hash_files(path)}))
    shelf.migrate("photos/1", "--to", "milvus", "--uri", shelf.milvus)
    found = {}
    for version in "12":
        opened = shelf.open(version)
        newer = Filter.parse('{"year": {"gt": 2020}}')
        found[version] = [
            opened.images.search(vectors(1, 1), 9, where=newer)[1],
            opened.captions.search(vectors(1, 1), 9, where=newer)[1],
            opened.images.search(vectors(1, 1), 9, ["sea"])[1],
        ]
    assert found["1"] == found["2"]
    assert [len(lines[0]) for lines in found["1"]] == [2, 4, 2]


def test_milvus_that_is_away_or_lacks_the_index_is_said(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "say where Milvus is" in shelf.migrate("photos/1", "--to", "milvus", code=1)
    assert "leave user and password out" in shelf.migrate(
        "photos/1", "--to", "milvus", "--uri", "http://me:secret@host:1", code=1
    )
    assert "is in files already" in shelf.migrate("photos/1", "--to", "embedded", code=1)
    monkeypatch.setenv("DIPTYCH_MILVUS_TOKEN", "very-secret")
    monkeypatch.setattr("shared.collections.milvus_items.TIMEOUT_SECONDS", 0.5)
    away = shelf.migrate("photos/1", "--to", "milvus", "--uri", "http://127.0.0.1:1", code=1)
    assert "Milvus at http://127.0.0.1:1 cannot be reached" in away
    assert "very-secret" not in away
    shelf.migrate("photos/1", "--to", "milvus", "--uri", shelf.milvus)
    path = shelf.store.path("index", Ref("photos", "2"))
    with pytest.raises(ArtifactError, match=r"has no collection diptych_photos_.*_images: migrate the index again"):
        IndexDirectory.open(path, milvus=MilvusSettings(milvus_uri=str(tmp_path / "other.db")))


def test_an_item_that_milvus_cannot_keep_stops_it_with_its_name(shelf: Shelf) -> None:
    manifest = shelf.store.index(FIRST)
    long = put(shelf.model, "long", "x").items["images"][0]
    sides = in_files(shelf.store.path("index", FIRST), manifest)
    stored = next(iter(sides["images"].stored(sides["images"].page("", 1)).values()))
    shelf.migrate("photos/1", "--to", "milvus", "--uri", shelf.milvus)
    images = shelf.open("2").images
    for bad, says in (
        (Item(long.id, {"name": "x" * 70_000}, long.vector, long.tokens), "bytes of metadata, Milvus keeps 65,535"),
        (Item("a b", {}, long.vector, long.tokens), "Milvus keeps ids of"),
        (Item("b", {"metadata": {"n": list(range(5000))}}, long.vector, long.tokens), "tags and values, over 4,096"),
    ):
        with pytest.raises(ValueError, match=says):
            images.check(bad)
    images.check(stored.item)
