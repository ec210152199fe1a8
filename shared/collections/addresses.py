"""Where a photo's bytes lie: a file under the photo root, a member of a tar shard, or a row of a Parquet file.

An address is what an item's metadata call ``path``. Under the root, which is a folder or an fsspec URL
(``s3://bucket/photos``), it is one of

- ``beach/1.jpg``: the file itself,
- ``shards/0.tar::1536+8271/beach/1.jpg``: 8271 bytes from byte 1536 on of an uncompressed tar, so that one ranged read
  gets them, whatever the shard's size,
- ``part-0.parquet::3.17+image/1.jpg``: the column ``image`` (percent-encoded) of row 17 of row group 3.

What follows the last of these marks is the photo's name, for people.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast
from urllib.parse import quote, unquote

Root = Path | str
MEMBER = "::"

_MEMBER = re.compile(r"(?P<file>.+?)::(?P<first>\d+)(?:\+(?P<size>\d+)|\.(?P<row>\d+)\+(?P<column>[^/]+))/.*", re.S)


def root_of(recorded: str) -> Root:
    """The photo root that a manifest records."""
    return recorded if "://" in recorded else Path(recorded)


def tar_member(shard: str, offset: int, size: int, name: str) -> str:
    return f"{shard}{MEMBER}{offset}+{size}/{name}"


def parquet_row(file: str, group: int, row: int, column: str, name: str) -> str:
    return f"{file}{MEMBER}{group}.{row}+{quote(column, safe='')}/{name}"


def local(root: Root, file: str) -> Path:
    """The file at ``file`` under a root that is a folder. Raises FileNotFoundError when it is not there, or when a link
    or ``..`` leads out of the root."""
    if isinstance(root, str):
        raise FileNotFoundError(f"{file} lies in {root}, not in a folder of this machine")
    try:
        inside = root.resolve()
        path = (inside / file).resolve()
    except RuntimeError as error:  # a loop of links
        raise FileNotFoundError(f"{file} cannot be found: {error}") from error
    if not path.is_relative_to(inside) or not path.is_file():
        raise FileNotFoundError(f"{file} is not, or no longer, a file under the photo folder {root}")
    return path


def opened(root: Root, file: str) -> BinaryIO:
    """The file at ``file`` under the root, which it cannot leave. Raises OSError."""
    if isinstance(root, Path):
        return local(root, file).open("rb")
    if ".." in PurePosixPath(file).parts:
        raise FileNotFoundError(f"{file} leads out of the photo root {root}")
    with _readable(file, root):
        from fsspec.core import url_to_fs

        store, base = url_to_fs(root)
        return cast("BinaryIO", store.open(f"{base.rstrip('/')}/{file}", "rb"))


def read(root: Root, address: str) -> bytes:
    """A photo's bytes. Raises OSError, also when a library that reading it needs is not installed."""
    member = _MEMBER.fullmatch(address)
    if member is None:
        with opened(root, address) as file:
            return file.read()
    with opened(root, member["file"]) as file, _readable(address, root):
        if member["size"] is not None:
            file.seek(int(member["first"]))
            return file.read(int(member["size"]))
        return _cell(file, int(member["first"]), int(member["row"]), unquote(member["column"]))


def image_bytes(cell: Any) -> bytes | None:
    """The image in a Parquet cell: bytes, or a struct with the field ``bytes`` as Hugging Face's data sets have it."""
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    return data if isinstance(data, bytes) else None


def _cell(file: BinaryIO, group: int, row: int, column: str) -> bytes:
    from pyarrow import parquet

    first = 0
    for batch in parquet.ParquetFile(file).iter_batches(batch_size=64, row_groups=[group], columns=[column]):
        if row < first + len(batch):
            data = image_bytes(batch.column(0)[row - first].as_py())
            if data is not None:
                return data
            break
        first += len(batch)
    raise FileNotFoundError(f"row {row} of row group {group} holds no image in column {column}")


@contextmanager
def _readable(address: str, root: Root) -> Iterator[None]:
    """Whatever a store's or a format's library raises comes out as an OSError that names the address."""
    try:
        yield
    except OSError:
        raise
    except ImportError as error:
        raise OSError(
            f"{address} in {root}: {error}; pip install 'diptych[bulk]', and what fsspec needs for this store"
        ) from error
    except Exception as error:  # each library has its own
        raise OSError(f"{address} in {root} cannot be read: {error}") from error
