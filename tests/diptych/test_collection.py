from __future__ import annotations

import json
from pathlib import Path

import pytest

from diptych import gallery
from diptych.collection import CollectionError, choose, index_name, lay_out
from training.data import layouts


def test_a_folder_of_one_s_own_gets_an_index_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "My Photos (2024)"
    folder.mkdir()
    collection = choose(folder, None, tmp_path / "gallery")
    assert collection.folder == folder
    assert collection.name.startswith("my-photos-2024-")
    assert collection.examples is None
    assert not (tmp_path / "gallery").exists()


def test_folders_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    names = {index_name(tmp_path / "a" / "photos"), index_name(tmp_path / "b" / "photos"), index_name(Path("/写真"))}
    assert len(names) == 3
    assert all(name.isascii() for name in names)


def test_flickr8k_and_the_gallery_by_name(tmp_path: Path) -> None:
    assert choose(None, tmp_path, tmp_path).name == "flickr8k"
    collection = choose(None, None, tmp_path)
    assert (collection.name, collection.folder, collection.examples) == ("gallery", tmp_path, gallery.EXAMPLES)


def test_a_missing_folder_and_two_at_once_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match="nowhere is not a folder"):
        choose(tmp_path / "nowhere", None, tmp_path)
    with pytest.raises(CollectionError, match="not both"):
        choose(tmp_path, tmp_path, tmp_path)


def test_the_gallery_is_laid_out_as_an_ordinary_data_set(tmp_path: Path) -> None:
    photos = gallery.photos()
    lay_out(photos, tmp_path)
    data = layouts.load(tmp_path, "all")
    assert {image.name: image.captions for image in data.images} == {photo.name: photo.captions for photo in photos}
    assert not data.skipped


def test_laying_out_again_mends_and_touches_nothing_else(tmp_path: Path) -> None:
    photos = gallery.photos()[:3]
    lay_out(photos, tmp_path)
    kept, damaged = tmp_path / photos[0].name, tmp_path / photos[1].name
    before = kept.stat().st_mtime_ns
    damaged.write_bytes(b"half")
    (tmp_path / "stranger.jpg").touch()
    lay_out(photos, tmp_path)
    assert kept.stat().st_mtime_ns == before
    assert damaged.read_bytes() == photos[1].path.read_bytes()
    assert not (tmp_path / "stranger.jpg").exists()
    lines = (tmp_path / "captions.jsonl").read_text().splitlines()
    assert [json.loads(line)["image"] for line in lines] == [photo.name for photo in photos]
