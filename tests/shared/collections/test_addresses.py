"""Where a photo's bytes lie, and that no address leads out of the root."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from pyarrow import parquet

from shared.collections import addresses


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a file, a tar and a Parquet file, and a secret beside it."""
    folder = tmp_path / "photos"
    (folder / "beach").mkdir(parents=True)
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (folder / "beach/1.jpg").write_bytes(b"one")
    (folder / "a::b.jpg").write_bytes(b"marked")
    with tarfile.open(folder / "0.tar", "w") as archive:
        member = tarfile.TarInfo("in/2.jpg")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"two"))
    rows = pa.table({"a/b%": [b"r0", b"r1", b"r2", None]})
    parquet.write_table(rows, folder / "0.parquet", row_group_size=2)
    return folder


@pytest.fixture
def url(root: Path) -> Iterator[str]:
    """The same in a store that is no folder."""
    memory = fsspec.filesystem("memory")
    memory.put(str(root), "/bucket/photos", recursive=True)
    memory.pipe("/bucket/secret.jpg", b"secret")
    yield "memory://bucket/photos"
    memory.rm("/bucket", recursive=True)


IN_TAR = addresses.tar_member("0.tar", 512, 3, "in/2.jpg")
IN_ROW = addresses.parquet_row("0.parquet", 1, 0, "a/b%", "x.jpg")


@pytest.mark.parametrize(
    ("address", "data"),
    [("beach/1.jpg", b"one"), ("a::b.jpg", b"marked"), (IN_TAR, b"two"), (IN_ROW, b"r2")],
)
def test_bytes_come_from_a_file_a_tar_and_a_row(root: Path, url: str, address: str, data: bytes) -> None:
    assert addresses.read(root, address) == data
    assert addresses.read(url, address) == data


@pytest.mark.parametrize(
    "address",
    ["../secret.jpg", "beach/../../secret.jpg", "../secret.jpg::0+6/x.jpg", "../secret.jpg::0.0+image/x", "none.jpg",
     "", "none.tar::0+6/x.jpg", addresses.parquet_row("0.parquet", 1, 1, "a/b%", "x"),
     addresses.parquet_row("0.parquet", 7, 0, "a/b%", "x"), addresses.parquet_row("0.parquet", 0, 0, "none", "x"),
     addresses.parquet_row("beach/1.jpg", 0, 0, "image", "x")],
)  # fmt: skip
def test_nothing_else_is_read(root: Path, url: str, address: str) -> None:
    for place in (root, url):
        with pytest.raises(OSError, match=r"."):
            addresses.read(place, address)


def test_a_link_leads_no_shard_out_of_the_folder(root: Path) -> None:
    (root / "link.tar").symlink_to(root.parent / "secret.jpg")
    with pytest.raises(FileNotFoundError):
        addresses.read(root, "link.tar::0+6/x.jpg")
    with pytest.raises(FileNotFoundError):
        addresses.read(root, str(root.parent / "secret.jpg"))


def test_a_store_that_cannot_be_asked_says_so() -> None:
    with pytest.raises(OSError, match="nosuch"):
        addresses.read("nosuch://bucket", "1.jpg")


def test_a_root_is_a_folder_or_a_url() -> None:
    assert addresses.root_of("/photos") == Path("/photos")
    assert addresses.root_of("s3://bucket/photos") == "s3://bucket/photos"
    with pytest.raises(FileNotFoundError, match="not in a folder of this machine"):
        addresses.local("s3://bucket/photos", "1.jpg")
