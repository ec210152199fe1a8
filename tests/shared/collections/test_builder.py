"""Building an index in steps that survive what happens to long jobs."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shared.artifacts import ArtifactError, ModelManifest, verify_files
from shared.collections import IndexBuilder, IndexDirectory, Photo
from tests.support.engines import all_ids
from tests.support.small import files_of_at_most, item, photo, write_model, write_photos


@pytest.fixture
def model(tmp_path: Path) -> ModelManifest:
    return write_model(tmp_path / "model")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_photos(tmp_path / "photos", 5)
    return tmp_path / "photos"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


@pytest.fixture
def builder(work: Path, model: ModelManifest, root: Path) -> Iterator[IndexBuilder]:
    with IndexBuilder(work, model, root) as builder:
        yield builder


def known(builder: IndexBuilder, one: Photo) -> bool:
    return builder.knows(one.path, one.size, one.mtime_ns, one.captions)


def caption_texts(directory: Path) -> list[str]:
    index = IndexDirectory.open(directory)
    return sorted(about["caption"] for about in index.captions.metadata(all_ids(index, "captions")))


def test_what_was_added_is_known_until_it_changes(builder: IndexBuilder, root: Path) -> None:
    one = photo(root, "0.png", ["a ball", "red"])
    assert not known(builder, one)
    builder.add([one])
    assert known(builder, one)
    assert builder.counts() == {"images": 1, "captions": 2}
    assert not known(builder, replace(one, size=one.size + 1))
    assert not known(builder, replace(one, mtime_ns=one.mtime_ns + 1))
    assert not known(builder, replace(one, captions=["a ball", "blue"]))
    assert not known(builder, replace(one, captions=["red", "a ball"]))


def test_building_resumes_where_it_was_closed(work: Path, model: ModelManifest, root: Path) -> None:
    photos = [photo(root, f"{n}.png", [f"number {n}"]) for n in range(5)]
    with IndexBuilder(work, model, root) as builder:
        builder.add(photos[:3])
    with IndexBuilder(work, model, root) as builder:
        assert [known(builder, one) for one in photos] == [True, True, True, False, False]
        builder.add(photos[3:])
        assert builder.counts() == {"images": 5, "captions": 5}


def test_new_captions_replace_the_old(builder: IndexBuilder, root: Path, tmp_path: Path) -> None:
    builder.add([photo(root, "0.png", ["one", "two", "three"]), photo(root, "1.png", ["other"])])
    builder.add([photo(root, "0.png", ["four"])])
    assert builder.counts() == {"images": 2, "captions": 2}
    builder.seal(tmp_path / "sealed", "photos", "1")
    assert caption_texts(tmp_path / "sealed") == ["four", "other"]


def test_a_photo_with_new_content_replaces_the_old(builder: IndexBuilder, root: Path) -> None:
    old = photo(root, "0.png", ["old"])
    builder.add([old])
    shutil.copy(root / "1.png", root / "0.png")
    new = photo(root, "0.png", ["new"])
    builder.add([new])
    assert builder.counts() == {"images": 1, "captions": 1}
    assert old.image_id is not None
    assert new.image_id is not None
    assert (builder.path_of(old.image_id), builder.path_of(new.image_id)) == (None, "0.png")


def test_a_vanished_file_is_forgotten_with_its_captions(builder: IndexBuilder, root: Path) -> None:
    builder.add(photo(root, f"{n}.png", [f"number {n}"]) for n in range(3))
    assert builder.keep_only(["0.png", "2.png", "never seen.png"]) == {"1.png"}
    assert builder.counts() == {"images": 2, "captions": 2}
    assert builder.keep_only(["0.png", "2.png"]) == set()


def duplicate(first: Photo, path: str) -> Photo:
    return replace(first, path=path, item=None, caption_items=(), problem=f"the same photo as {first.path}")


def test_a_copy_is_looked_at_again_when_its_original_vanishes(builder: IndexBuilder, root: Path) -> None:
    first = photo(root, "0.png", ["original"])
    copy = duplicate(first, "copy.png")
    builder.add([first, copy])
    assert builder.counts() == {"images": 1, "captions": 1}
    assert builder.problems() == [("copy.png", "the same photo as 0.png")]
    builder.keep_only(["copy.png"])
    assert not known(builder, copy)
    assert builder.counts() == {"images": 0, "captions": 0}
    shutil.copy(root / "0.png", root / "copy.png")
    builder.add([photo(root, "copy.png", ["copy"])])
    assert builder.counts() == {"images": 1, "captions": 1}
    assert builder.problems() == []


def test_a_copy_that_vanishes_takes_nothing_along(builder: IndexBuilder, root: Path) -> None:
    first = photo(root, "0.png", ["original"])
    builder.add([first, duplicate(first, "copy.png")])
    builder.keep_only(["0.png"])
    assert builder.counts() == {"images": 1, "captions": 1}
    assert known(builder, first)


def test_a_photo_that_moved_in_one_step_is_not_lost(builder: IndexBuilder, root: Path) -> None:
    first = photo(root, "0.png", ["zero"])
    builder.add([first])
    (root / "0.png").rename(root / "moved.png")
    shutil.copy(root / "1.png", root / "0.png")
    # The new owner comes before the old one is overwritten.
    builder.add([photo(root, "moved.png", ["zero"]), photo(root, "0.png", ["one"])])
    assert builder.counts() == {"images": 2, "captions": 2}
    assert first.image_id is not None
    assert builder.path_of(first.image_id) == "moved.png"


def test_a_batch_is_added_whole_or_not_at_all(builder: IndexBuilder, root: Path) -> None:
    good, bad = photo(root, "0.png", ["fine"]), photo(root, "1.png")
    bad = replace(bad, item=replace(item("bad"), vector=np.full(8, np.nan, np.float32)))
    with pytest.raises(ValueError, match="item 'bad' has a vector of length nan"):
        builder.add([good, bad])
    assert builder.counts() == {"images": 0, "captions": 0}
    assert not known(builder, good)
    builder.add([good])
    assert known(builder, good)


def test_another_model_or_folder_is_refused(work: Path, model: ModelManifest, root: Path, tmp_path: Path) -> None:
    with IndexBuilder(work, model, root) as builder:
        builder.add([photo(root, "0.png")])
    other = write_model(tmp_path / "other", weights=b"two")
    for begun_with in ((other, root), (model, tmp_path)):
        with pytest.raises(ArtifactError, match="was begun with another model or photo folder"):
            IndexBuilder(work, *begun_with)
    with IndexBuilder(work, model, root) as builder:
        assert builder.counts()["images"] == 1


def test_a_working_folder_that_is_damaged_is_named(work: Path, model: ModelManifest, root: Path) -> None:
    work.mkdir()
    (work / "items.sqlite").write_bytes(b"no database at all" * 500)
    with pytest.raises(ArtifactError, match="is not an item store"):
        IndexBuilder(work, model, root)


def test_contents_tell_what_sealing_would_give(builder: IndexBuilder, root: Path) -> None:
    first = photo(root, "0.png", ["zero"])
    builder.add([first])
    before = builder.contents()
    builder.add([replace(first, mtime_ns=first.mtime_ns + 1)])
    builder.add([Photo("broken.png", 3, 4, (), problem="no photo")])
    assert builder.contents() == before
    builder.add([photo(root, "0.png", ["nil"])])
    assert builder.contents() != before
    builder.add([first, photo(root, "1.png")])
    assert builder.contents() != before
    builder.keep_only(["0.png", "broken.png"])
    assert builder.contents() == before


def test_an_index_is_sealed_whole_and_building_goes_on(builder: IndexBuilder, root: Path, tmp_path: Path) -> None:
    builder.add([photo(root, "0.png", ["zero"])])
    manifest = builder.seal(tmp_path / "one", "photos", "1")
    assert manifest.collections == {"images": 1, "captions": 1}
    beside = {f"{name}.{what}.npy" for name in ("images", "captions") for what in ("ids", "numbers", "vectors")}
    assert {file.name for file in (tmp_path / "one").iterdir()} == {"items.sqlite", "manifest.json", *beside}
    verify_files(tmp_path / "one", manifest)
    builder.add([photo(root, "1.png", ["one"])])
    builder.seal(tmp_path / "two", "photos", "2")
    assert caption_texts(tmp_path / "one") == ["zero"]
    assert caption_texts(tmp_path / "two") == ["one", "zero"]
    with pytest.raises(ArtifactError, match="already exists"):
        builder.seal(tmp_path / "one", "photos", "3")


def test_a_full_disk_loses_nothing_that_was_there(builder: IndexBuilder, root: Path, tmp_path: Path) -> None:
    first = photo(root, "0.png", ["zero"])
    builder.add([first])
    many = [item(f"{n}", caption="x" * 1000, image_id=first.image_id) for n in range(500)]
    large = replace(photo(root, "1.png"), caption_items=many)
    with files_of_at_most(200_000), pytest.raises(ArtifactError, match="cannot be written"):
        builder.add([large])
    assert builder.counts() == {"images": 1, "captions": 1}
    assert known(builder, first)
    builder.add([large])
    assert builder.counts() == {"images": 2, "captions": 501}
    with files_of_at_most(200_000), pytest.raises(ArtifactError, match=r"writing the index to .* failed"):
        builder.seal(tmp_path / "sealed", "photos", "1")
    assert not any("sealed" in path.name for path in tmp_path.iterdir())
    assert builder.seal(tmp_path / "sealed", "photos", "1").collections == {"images": 2, "captions": 501}


BUILD = """
import sys
from pathlib import Path
from shared.artifacts import read_manifest
from shared.collections import IndexBuilder
from tests.support.small import photo
model, root, work = map(Path, sys.argv[1:])
with IndexBuilder(work, read_manifest(model), root) as builder:
    print("building", flush=True)
    for path in sorted(path.name for path in root.iterdir()):
        one = photo(root, path, [f"{path} {n}" for n in range(5)])
        if not builder.knows(path, one.size, one.mtime_ns, one.captions):
            builder.add([one])
            print(path, flush=True)
"""


def test_a_build_that_is_killed_again_and_again_loses_and_doubles_nothing(
    tmp_path: Path, work: Path, model: ModelManifest
) -> None:
    names = write_photos(tmp_path / "many", 400)
    command = [sys.executable, "-c", BUILD, str(tmp_path / "model"), str(tmp_path / "many"), str(work)]
    chance = random.Random(7)
    said: list[str] = []
    for _ in range(8):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]) as process:
            assert process.stdout is not None
            said += [process.stdout.readline().strip() for _ in range(chance.randrange(1, 40))]
            time.sleep(chance.random() / 200)  # anywhere within a step, and not only between two
            os.kill(process.pid, signal.SIGKILL)
            said += process.stdout.read().split()
        with IndexBuilder(work, model, tmp_path / "many") as builder:
            # What it had reported is there, each photo with all of its captions.
            counts = builder.counts()
            assert counts["captions"] == 5 * counts["images"]
            told = [
                photo(tmp_path / "many", name, [f"{name} {n}" for n in range(5)]) for name in set(said) & set(names)
            ]
            assert all(known(builder, one) for one in told)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[3])
    with IndexBuilder(work, model, tmp_path / "many") as builder:
        builder.seal(tmp_path / "sealed", "photos", "1")
    assert caption_texts(tmp_path / "sealed") == sorted(f"{name} {n}" for name in names for n in range(5))
    assert len(IndexDirectory.open(tmp_path / "sealed").images) == 400
