"""What is put in, replaced and removed while an index is open, held against a dictionary."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shared.artifacts import ArtifactError, ModelManifest
from shared.collections import IndexDirectory, Library, LibraryReader
from shared.collections.backup import backup, restore
from shared.collections.library import Embedded, FullError, Remove
from tests.support.engines import all_ids, put
from tests.support.small import DIM, TOKEN_DIM, files_of_at_most, vectors, write_index, write_model, write_photos


@pytest.fixture
def model(tmp_path: Path) -> ModelManifest:
    return write_model(tmp_path / "model")


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    library = Library(tmp_path / "library")
    yield library
    library.close()


def opened(tmp_path: Path, library: LibraryReader) -> IndexDirectory:
    return IndexDirectory.open(tmp_path / "index", library=library)


@pytest.fixture
def index(tmp_path: Path, model: ModelManifest, library: Library) -> IndexDirectory:
    write_photos(tmp_path / "photos", 4)
    write_index(tmp_path / "work", tmp_path / "index", tmp_path / "photos", model)
    return opened(tmp_path, library)


def found(index: IndexDirectory, name: str) -> set[str]:
    collection = index.collection(name)
    return set(collection.search(vectors(0, 1), 1000)[1][0])


def test_compaction_gives_back_what_removed_photos_took(library: Library, model: ModelManifest) -> None:
    library.commit([put(model, f"mine-{n}", f"{n}" * 20_000) for n in range(60)])
    library.commit([Remove(f"mine-{n}") for n in range(1, 60)])
    reader = LibraryReader(library.directory)
    before = list(reader.news(0, model.fingerprint, DIM))
    assert library.compact() > 1_000_000
    after = list(reader.news(0, model.fingerprint, DIM))
    assert [(one.seq, one.id, one.rows is None) for one in after] == [
        (one.seq, one.id, one.rows is None) for one in before
    ]
    assert [path.name for path in library.directory.glob("photos/*/*")] == [hashlib.sha256(b"0" * 20_000).hexdigest()]
    assert library.compact() == 0


def test_a_compaction_that_is_killed_loses_nothing(library: Library, model: ModelManifest) -> None:
    for start in range(0, 300, 50):
        library.commit([put(model, f"mine-{n}", f"{n} ") for n in range(start, start + 50)])
    rng = random.Random(1)
    for kill in range(4):
        library.commit([Remove(f"mine-{n}") for n in range(50 * kill, 50 * kill + 50)])
        library.close()
        program = (
            "import sys; from pathlib import Path; from shared.collections import Library\n"
            "library = Library(Path(sys.argv[1])); print('begins', flush=True)\n"
            "while True: library.compact()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program, str(library.directory)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begins\n"
            time.sleep(rng.uniform(0, 0.05))
            process.kill()
        library.__init__(library.directory)  # type: ignore[misc]
        there = {one.id: one.rows for one in library.news(0, model.fingerprint, DIM) if one.rows}
        assert set(there) == {f"mine-{n}" for n in range(50 * kill + 50, 300)}
        for photo, rows in there.items():
            assert library.file(hashlib.sha256(f"{photo[5:]} ".encode()).hexdigest()).exists()
            assert len(library.tokens([row.number for row in rows], TOKEN_DIM)) == 2


def test_who_is_reading_what_is_being_removed_can_finish(
    index: IndexDirectory, library: Library, model: ModelManifest
) -> None:
    library.commit([put(model, "mine", "first")])
    index.refresh()
    library.commit([Remove("mine")])
    index.refresh()
    assert index.images.metadata(["mine"]) == [{"name": "mine"}]
    assert len(index.images.tokens(["mine"])[0]) == 3


def test_nothing_changes_by_removing_twice_or_removing_what_another_model_has_seen_too_late(
    library: Library, model: ModelManifest
) -> None:
    change = put(model, "mine", "first")
    assert library.commit([change, Remove("mine"), Remove("mine")]) == [1, 2, None]
    late = Embedded("mine", 1, "other", change.items)
    assert library.commit([late]) == [None]
    assert next(iter(library.news(0, "other", DIM))).rows is None


def test_a_library_has_one_writer(library: Library) -> None:
    with pytest.raises(ArtifactError, match="another process writes to"):
        Library(library.directory)


def test_files_that_nothing_refers_to_are_gone_after_the_next_start(library: Library, model: ModelManifest) -> None:
    library.commit([put(model, "mine", "first")])
    library.commit([put(model, "mine", "second")])
    directory = library.directory
    never = library.file("ab" * 32)
    never.parent.mkdir(parents=True)
    never.write_bytes(b"never committed")
    library.close()
    again = Library(directory)
    assert not never.exists()
    assert not again.file(hashlib.sha256(b"first").hexdigest()).exists()
    assert again.file(hashlib.sha256(b"second").hexdigest()).exists()
    again.close()


def test_a_full_disk_refuses_and_changes_nothing(library: Library, model: ModelManifest) -> None:
    library.commit([put(model, "mine", "first")])
    with files_of_at_most(50_000):
        with pytest.raises((FullError, ArtifactError), match="cannot be written"):
            library.commit([put(model, "large", "x" * 100_000)])
        many = [put(model, f"{n}", f"{n}", captions=5) for n in range(300)]
        with pytest.raises(ArtifactError, match="cannot be written"):
            library.commit(many)
    assert library.revision() == 1
    assert library.commit([put(model, "more", "second")]) == [2]


def test_a_library_begun_anew_goes_on_after_what_an_index_has_taken_in(library: Library, model: ModelManifest) -> None:
    assert library.commit([put(model, "mine", "first")], after=7) == [8]
    assert library.commit([put(model, "more", "second")], after=7) == [9]


def test_a_backup_is_the_library_as_it_was_and_going_back_undoes_what_came_after(
    tmp_path: Path, index: IndexDirectory, library: Library, model: ModelManifest
) -> None:
    base = set(all_ids(index))
    library.commit([put(model, "kept", "first"), put(model, "changed", "before"), Remove(min(base))])
    assert backup(library.directory, tmp_path / "copy") == 2
    library.commit([put(model, "changed", "after"), put(model, "new", "third"), Remove("kept")])
    index.refresh()
    with pytest.raises(ArtifactError, match="a service is writing to"):
        restore(tmp_path / "copy", library.directory)
    library.close()
    assert restore(tmp_path / "copy", library.directory) == 2
    for one in (index, opened(tmp_path, LibraryReader(library.directory))):
        one.refresh()
        assert found(one, "images") == base - {min(base)} | {"kept", "changed"}
        assert one.content("changed") == b"before"
    again = Library(library.directory)
    assert again.commit([put(model, "later", "fourth")]) == [index.revision + 1]
    again.close()


@pytest.mark.parametrize("damage", ["no library", "a photo missing", "a photo altered"])
def test_a_damaged_backup_is_refused_and_the_library_stays(
    tmp_path: Path, library: Library, model: ModelManifest, damage: str
) -> None:
    library.commit([put(model, "mine", "first")])
    backup(library.directory, tmp_path / "copy")
    (photo,) = (tmp_path / "copy").glob("photos/*/*")
    if damage == "no library":
        (tmp_path / "copy" / "library.sqlite").unlink()
    else:
        photo.unlink()
        if damage == "a photo altered":
            photo.write_bytes(b"other")
    library.close()
    with pytest.raises(ArtifactError):
        restore(tmp_path / "copy", library.directory)
    assert LibraryReader(library.directory).photo("mine") is not None
    assert not list(tmp_path.glob(".*partial"))


def test_a_library_can_be_read_while_it_is_begun(tmp_path: Path) -> None:
    for number in range(10):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "begun.sqlite").write_bytes(b"half of one, left by a crash")
        with ThreadPoolExecutor(1) as pool:
            opening = pool.submit(Library, folder)
            reader = LibraryReader(folder)
            while not opening.done():
                assert reader.photo("nobody") is None
                assert reader.same_content("0" * 64) == []
            opening.result().close()
        assert reader.exists
        reader.close()
