"""Building indexes of drawn photos with a small real model."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from shared.artifacts import ArtifactError, ArtifactStore, Ref
from shared.collections import LIBRARIES, IndexDirectory, Item, Library
from shared.collections.library import Put, Remove
from shared.engines import open_engine
from shared.engines.images import pixels
from tests.support.engines import all_ids
from tests.support.photos import draw
from training import index_build
from training.data.captioned import DataError

MODEL = Ref("tiny", "1")


class Bench:
    """A store with the small model, a photo folder of three, and a working folder."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.store = ArtifactStore(folder / "store")
        self.store.publish(model)
        self.photos = folder / "photos"
        self.photos.mkdir()
        self.work = folder / "work"
        self.console = Console(record=True, width=200)
        for shape in ("ball", "car", "tree"):
            draw(shape, "red", "blue").save(self.photos / f"{shape}.png")

    def captions(self, **captions: list[str]) -> None:
        lines = [json.dumps({"image": f"{name}.png", "captions": texts}) for name, texts in captions.items()]
        (self.photos / "captions.jsonl").write_text("\n".join(lines))

    def build(self, *, activate: bool = False, batch_size: int = 2) -> Ref:
        return index_build.build(
            self.store,
            MODEL,
            index_build.photos_in(self.photos),
            self.work,
            name="drawn",
            batch_size=batch_size,
            activate=activate,
            console=self.console,
        )

    def said(self) -> str:
        return self.console.export_text()

    def opened(self, ref: Ref) -> IndexDirectory:
        return IndexDirectory.open(self.store.path("index", ref))

    def names(self, ref: Ref) -> list[str]:
        index = self.opened(ref)
        return sorted(about["path"] for about in index.images.metadata(all_ids(index)))

    def texts(self, ref: Ref) -> list[str]:
        index = self.opened(ref)
        return sorted(about["caption"] for about in index.captions.metadata(all_ids(index, "captions")))


@pytest.fixture
def bench(tmp_path: Path, tiny_model: Path) -> Bench:
    return Bench(tmp_path, tiny_model)


@pytest.fixture
def engineless(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, opening an engine is an error."""

    def opened(*_: object, **__: object) -> None:
        raise AssertionError("an engine was opened")

    monkeypatch.setattr(index_build, "open_engine", opened)


def test_a_folder_without_captions_is_indexed(bench: Bench) -> None:
    ref = bench.build(activate=True)
    assert ref == Ref("drawn", "1")
    assert bench.store.index(ref).collections == {"images": 3, "captions": 0}
    current = bench.store.current()
    assert current is not None
    assert (current.model, current.index) == ("tiny/1", "drawn/1")
    assert "index drawn: 3 photos, 0 captions" in bench.said()


def test_captions_are_indexed_with_their_photos(tiny_model: Path, drawn_photos: Path, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    store.publish(tiny_model)
    source = index_build.photos_in(drawn_photos)
    ref = index_build.build(
        store, MODEL, source, tmp_path / "work", name="drawn", activate=False, console=Console(quiet=True)
    )
    index = IndexDirectory.open(store.path("index", ref))
    assert store.index(ref).collections == {"images": 36, "captions": 72}
    assert store.index(ref).fingerprint == store.model(MODEL).fingerprint
    engine = open_engine(tiny_model)
    # Each photo and each caption finds itself, and a caption knows its photo.
    for image in source.images[::9]:
        found = engine.embed_images(pixels(image.path.read_bytes(), engine.manifest.preprocessing)[None])
        scores, ids = index.images.search(found.embedding, 1)
        about = index.images.metadata(ids[0])[0]
        assert about["path"] == about["name"] == image.name
        assert scores[0, 0] == pytest.approx(1, abs=1e-3)
        assert index.photo(ids[0][0]).read_bytes() == image.path.read_bytes()
        assert len(index.images.tokens(ids[0])[0]) == 9
        captions = index.captions.metadata([f"{ids[0][0]}-0", f"{ids[0][0]}-1"])
        assert [about["caption"] for about in captions] == list(image.captions)
        assert {about["image_id"] for about in captions} == {ids[0][0]}
    assert store.current() is None


def test_what_cannot_be_read_is_left_out_and_counted(bench: Bench, tmp_path: Path) -> None:
    whole = (bench.photos / "car.png").read_bytes()
    (bench.photos / "cut.png").write_bytes(whole[: len(whole) // 2])
    (bench.photos / "empty.jpg").write_bytes(b"")
    (bench.photos / "text.jpg").write_text("not a photo")
    (bench.photos / "twice.png").write_bytes(whole)
    draw("car", "green", "red").save(tmp_path / "outside.png")
    (bench.photos / "link.png").symlink_to(tmp_path / "outside.png")
    (bench.photos / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (bench.photos / "folder.png").mkdir()
    os.mkfifo(bench.photos / "pipe.png")
    (bench.photos / "notes.txt").write_text("no photo by its name")
    ref = bench.build()
    said = bench.said()
    assert bench.names(ref) == ["ball.png", "car.png", "tree.png"]
    assert "left out 5 files" in said
    for line in ("cut.png: the image", "empty.jpg: the image is empty", "text.jpg: ", "twice.png: the same photo as",
                 "link.png: it is a link to a file outside the photo folder"):  # fmt: skip
        assert f"  {line}" in said


def test_a_name_that_is_not_text_is_left_out_and_counted(bench: Bench) -> None:
    (bench.photos / "car.png").rename(bench.photos / os.fsdecode(b"\xff.png"))
    assert bench.names(bench.build()) == ["ball.png", "tree.png"]
    assert r"\udcff.png: its name is not valid UTF-8; rename it" in bench.said()


def test_captions_that_say_nothing_are_left_out_and_counted(bench: Bench) -> None:
    bench.captions(ball=["a red ball", "x" * 10_001, "half \ud800 a pair", "round"], car=["a car"])
    assert bench.texts(bench.build()) == ["a car", "a red ball", "round"]
    assert "left out 2 captions" in bench.said()


def test_only_unreadable_files_are_an_error(bench: Bench) -> None:
    for file in bench.photos.iterdir():
        file.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"none of the 3 files in .* could be read as a photo"):
        bench.build()
    assert bench.store.published("index") == []


def test_a_second_run_does_nothing(bench: Bench, request: pytest.FixtureRequest) -> None:
    bench.captions(ball=["a red ball"])
    (bench.photos / "broken.png").write_bytes(b"broken")
    (bench.photos / "twice.png").write_bytes((bench.photos / "ball.png").read_bytes())
    first = bench.build(activate=True)
    before = bench.store.current()
    request.getfixturevalue("engineless")
    assert bench.build(activate=True) == first
    assert bench.store.current() == before
    assert len(bench.store.published("index")) == 1
    assert sorted(path.name for path in bench.work.iterdir()) == ["items.sqlite"]


def test_a_touched_photo_is_read_again_but_is_no_new_version(bench: Bench) -> None:
    first = bench.build()
    os.utime(bench.photos / "car.png", (1, 1))
    assert bench.build() == first


def test_a_new_photo_is_a_new_version(bench: Bench) -> None:
    first = bench.build()
    draw("car", "yellow", "green").save(bench.photos / "new.png")
    assert bench.build() == Ref("drawn", "2")
    assert bench.names(Ref("drawn", "2")) == ["ball.png", "car.png", "new.png", "tree.png"]
    assert bench.names(first) == ["ball.png", "car.png", "tree.png"]


def test_a_removed_photo_is_gone_from_the_next_version(bench: Bench, request: pytest.FixtureRequest) -> None:
    bench.captions(ball=["a red ball"], car=["a red car"])
    bench.build()
    (bench.photos / "car.png").unlink()
    request.getfixturevalue("engineless")
    second = bench.build()
    assert (bench.names(second), bench.texts(second)) == (["ball.png", "tree.png"], ["a red ball"])
    assert "1 gone from the folder" in bench.said()


def test_new_captions_are_a_new_version(bench: Bench) -> None:
    bench.captions(ball=["a red ball"])
    bench.build()
    bench.captions(ball=["a ball", "on blue"])
    assert bench.texts(bench.build()) == ["a ball", "on blue"]


def test_a_copy_takes_the_place_of_its_original(bench: Bench) -> None:
    (bench.photos / "z.png").write_bytes((bench.photos / "ball.png").read_bytes())
    assert bench.names(bench.build()) == ["ball.png", "car.png", "tree.png"]
    (bench.photos / "ball.png").unlink()
    assert bench.names(bench.build()) == ["car.png", "tree.png", "z.png"]


@pytest.mark.parametrize("batch_size", [1, 32])
def test_photos_that_change_their_names_are_not_lost(bench: Bench, batch_size: int) -> None:
    bench.build()
    # ball.png becomes car.png, car.png becomes tree.png, tree.png becomes ball.png.
    data = {name: (bench.photos / f"{name}.png").read_bytes() for name in ("ball", "car", "tree")}
    for old, new in (("ball", "car"), ("car", "tree"), ("tree", "ball")):
        (bench.photos / f"{new}.png").write_bytes(data[old])
        os.utime(bench.photos / f"{new}.png", (2, 2))
    index = bench.opened(bench.build(batch_size=batch_size))
    assert len(index.images) == 3
    assert {index.photo(image_id).read_bytes() for image_id in all_ids(index)} == set(data.values())


def test_hidden_folders_and_files_are_ignored_and_others_are_not(bench: Bench) -> None:
    for folder in (".cache", "deep/er"):
        (bench.photos / folder).mkdir(parents=True)
        draw("car", "green", "yellow").save(bench.photos / folder / "one.png")
    draw("car", "blue", "yellow").save(bench.photos / ".hidden.png")
    assert bench.names(bench.build()) == ["ball.png", "car.png", "deep/er/one.png", "tree.png"]


def test_a_damaged_version_is_not_handed_out_again(bench: Bench) -> None:
    first = bench.build()
    (bench.store.path("index", first) / "items.sqlite").write_bytes(b"")
    second = bench.build()
    assert second == Ref("drawn", "2")
    assert bench.names(second) == ["ball.png", "car.png", "tree.png"]


def test_another_photo_folder_with_the_same_photos_is_another_version(bench: Bench, tmp_path: Path) -> None:
    bench.build()
    bench.photos = bench.photos.rename(tmp_path / "moved")
    bench.work = tmp_path / "other-work"
    ref = bench.build()
    assert ref == Ref("drawn", "2")
    assert bench.opened(ref).photo(all_ids(bench.opened(ref))[0]).is_file()


def test_a_folder_that_holds_no_photos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder of photos"):
        index_build.photos_in(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match="holds no photos"):
        index_build.photos_in(tmp_path)


def test_a_vocabulary_is_checked_against_the_model_s(tiny_model: Path, tmp_path: Path) -> None:
    vocab = tmp_path / "vocab.json"
    words = json.loads((tiny_model / "vocab.json").read_text())
    vocab.write_text(json.dumps(words, indent=4))
    index_build.check_vocabulary(tiny_model, vocab)
    vocab.write_text(json.dumps({**words, "more": len(words)}))
    with pytest.raises(ArtifactError, match="is not the vocabulary that the model was trained with"):
        index_build.check_vocabulary(tiny_model, vocab)
    for broken in (b'{"a": ', b"\xff\xfe"):
        vocab.write_bytes(broken)
        with pytest.raises(ArtifactError, match="is not a vocabulary"):
            index_build.check_vocabulary(tiny_model, vocab)
    with pytest.raises(ArtifactError, match="cannot be read"):
        index_build.check_vocabulary(tiny_model, tmp_path / "nowhere.json")
    vocab.write_text(json.dumps(words))
    (tmp_path / "pretrained").mkdir()
    with pytest.raises(ArtifactError, match="has no vocabulary"):
        index_build.check_vocabulary(tmp_path / "pretrained", vocab)


def put_in(bench: Bench, library: Library, image_id: str, shape: str, *captions: str, seen: bool = False) -> None:
    """Put a drawn photo into the library of the index, as the index service does."""
    file = bench.photos.parent / "put.png"
    draw(shape, "green", "yellow").save(file)
    data = file.read_bytes()
    about = {"name": "put.png", "captions": list(captions), "tags": ["new"], "metadata": {}, "bytes": len(data)}
    items: dict[str, list[Item]] = {}
    if seen:
        engine = open_engine(bench.store.path("model", MODEL))
        made = engine.embed_images(pixels(data, engine.manifest.preprocessing)[None])
        items = {"images": [Item(image_id, {"name": "put.png"}, made.embedding[0], made.tokens[0])]}
    change = Put(image_id, data, about, bench.store.model(MODEL).fingerprint, items)
    library.commit([change])


@pytest.fixture
def library(bench: Bench) -> Iterator[Library]:
    library = Library(bench.store.root / LIBRARIES / "drawn")
    yield library
    library.close()


def test_what_was_put_in_through_the_gateway_is_taken_in(bench: Bench, library: Library) -> None:
    first = bench.build()
    put_in(bench, library, "mine", "ball", "a green ball", "put in later")
    second = bench.build()
    assert second != first
    opened = bench.opened(second)
    assert (len(opened.images), opened.manifest.library_seq) == (4, 1)
    assert bench.texts(second) == ["a green ball", "put in later"]
    assert opened.images.metadata(["mine"])[0]["tags"] == ["new"]
    assert bench.build() == second
    # With the library beside it nothing is there twice.
    index = IndexDirectory.open(bench.store.path("index", second), library=library)
    assert (len(index.images), len(index.captions), index.pending) == (4, 2, {})


def test_what_the_model_has_seen_is_not_looked_at_again(
    bench: Bench, library: Library, request: pytest.FixtureRequest
) -> None:
    bench.build()
    put_in(bench, library, "mine", "ball", seen=True)
    request.getfixturevalue("engineless")
    assert len(bench.opened(bench.build()).images) == 4


def test_a_photo_of_the_folder_that_was_removed_or_replaced_is_not_brought_back(bench: Bench, library: Library) -> None:
    bench.captions(ball=["a ball"], car=["a car"])
    opened = bench.opened(bench.build())
    ids = {about["name"]: one for one in all_ids(opened) for about in opened.images.metadata([one])}
    library.commit([Remove(ids["ball.png"])])
    put_in(bench, library, ids["car.png"], "tree", "a green tree")
    for _ in range(2):
        ref = bench.build()
        opened = bench.opened(ref)
        assert set(all_ids(opened)) == {ids["car.png"], ids["tree.png"]}
        assert bench.texts(ref) == ["a green tree"]
    assert "was replaced or removed through the gateway" in bench.said()
    put_in(bench, library, ids["ball.png"], "ball", "a ball again")
    assert bench.texts(bench.build()) == ["a ball again", "a green tree"]
