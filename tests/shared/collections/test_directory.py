"""Published indexes, opened for reading: whole ones, damaged ones, and photos that try to lead elsewhere."""

from __future__ import annotations

import gc
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from shared.artifacts import ArtifactError, hash_files, read_manifest, write_manifest
from shared.collections import IndexBuilder, IndexDirectory
from tests.support.engines import all_ids
from tests.support.small import DIM, photo, write_index, write_model, write_photos


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_photos(tmp_path / "photos", 6)
    return tmp_path / "photos"


@pytest.fixture
def index(tmp_path: Path, root: Path) -> Path:
    write_index(tmp_path / "work", tmp_path / "index", root, write_model(tmp_path / "model"))
    return tmp_path / "index"


def seal_again(index: Path, **changes: object) -> None:
    """Bring the manifest up to date with altered files, as whoever altered them would."""
    write_manifest(index, read_manifest(index).model_copy(update={"files": hash_files(index), **changes}))


def alter(index: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(index / "items.sqlite")) as connection, connection:
        connection.execute(statement, values)
    seal_again(index)


def test_an_index_that_nobody_uses_any_more_closes_its_files(index: Path) -> None:
    def held() -> int:
        return sum(
            link.is_symlink() and link.readlink() == (index / "items.sqlite").resolve()
            for link in Path("/proc/self/fd").iterdir()
        )

    opened = IndexDirectory.open(index)
    opened.images.metadata(all_ids(opened))
    assert held() > 0
    del opened
    gc.collect()
    assert held() == 0


def test_an_index_without_captions_is_one(tmp_path: Path, root: Path) -> None:
    with IndexBuilder(tmp_path / "w", write_model(tmp_path / "m"), root) as builder:
        builder.add([photo(root, "0.png")])
        builder.seal(tmp_path / "i", "bare", "1")
    opened = IndexDirectory.open(tmp_path / "i")
    scores, ids = opened.captions.search(np.ones((2, DIM), np.float32), 5)
    assert (scores.shape, ids) == ((2, 0), [[], []])


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:5000])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def resealed(damage: Callable[[Path], object]) -> Callable[[Path], None]:
    """Damage that the manifest agrees with."""

    def both(file: Path) -> None:
        damage(file)
        seal_again(file.parent)

    return both


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (cut, "has 5000 bytes, its manifest says"),
        (flip, "is not the file that was published"),
        (Path.unlink, "is missing"),
        (lambda file: file.with_name("manifest.json").unlink(), "is not an artifact"),
        (resealed(cut), "malformed|cannot be read"),
        (resealed(lambda file: file.write_bytes(b"x" * 9000)), "is not an item store"),
        (resealed(lambda file: file.write_bytes(b"")), "is not an item store"),
        (resealed(Path.unlink), "cannot be opened"),
        (lambda file: seal_again(file.parent, embedding_dim=DIM + 1), r"vectors \(6, 8\)\); build it again"),
        (lambda file: seal_again(file.parent, collections={"images": 7, "captions": 12}), "has 6 images, .* says 7"),
        (lambda file: alter(file.parent, "DELETE FROM items WHERE collection = 'captions'"), "has 0 captions"),
    ],
)
def test_a_damaged_index_is_refused(index: Path, damage: Callable[[Path], object], says: str) -> None:
    damage(index / "items.sqlite")
    with pytest.raises(ArtifactError, match=says):
        IndexDirectory.open(index)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_not_numbers_are_refused(index: Path, value: float) -> None:
    vectors = np.load(index / "images.vectors.npy")
    vectors[1] = value
    np.save(index / "images.vectors.npy", vectors)
    seal_again(index)
    with pytest.raises(ArtifactError, match="with NaN or infinity; build the index again"):
        IndexDirectory.open(index)


def test_a_model_is_not_opened_as_an_index(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    with pytest.raises(ArtifactError, match="holds a model, not an index"):
        IndexDirectory.open(tmp_path / "model")


@pytest.mark.parametrize("path", ["../secret.png", "/etc/hostname", "a/../../secret.png", "link.png", "out/secret.png",
                                  "loop", "", ".", "none.png"])  # fmt: skip
def test_no_photo_path_leads_out_of_the_folder(index: Path, root: Path, tmp_path: Path, path: str) -> None:
    (tmp_path / "secret.png").write_bytes((root / "0.png").read_bytes())
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "out").symlink_to(tmp_path)
    (root / "loop").symlink_to(root / "loop")
    alter(index, "UPDATE items SET metadata = json_set(metadata, '$.path', ?) WHERE number = 1", path)
    opened = IndexDirectory.open(index)
    with pytest.raises(FileNotFoundError):
        opened.photo(str(photo(root, "0.png").image_id))


def test_a_link_within_the_folder_is_followed(index: Path, root: Path) -> None:
    (root / "0.png").rename(root / "real.png")
    (root / "0.png").symlink_to(root / "real.png")
    opened = IndexDirectory.open(index)
    assert opened.photo(str(photo(root, "0.png").image_id)) == (root / "real.png").resolve()
