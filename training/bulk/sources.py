"""What there is to index, without reading it: photos' files and shards, each with what tells whether it has changed."""

from __future__ import annotations

import hashlib
import posixpath
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from shared.collections.addresses import MEMBER, Root
from training.data import caption_files, layouts
from training.data.captioned import PHOTO_SUFFIXES, DataError
from training.index_build import photos_in, relative

SHARD_SUFFIXES = frozenset({".tar", ".parquet"})
# What stores call the things that change with a file's content.
_MARKS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "created")


@dataclass(frozen=True)
class Unit:
    """One file to read: a photo, or a shard of many.

    ``path`` is its address under the root, ``size`` in bytes, and ``version`` changes when it does: for a photo on a
    local disk its time of change in nanoseconds, for anything else a digest.
    """

    path: str
    size: int
    version: int
    captions: tuple[str, ...] = ()

    @property
    def is_shard(self) -> bool:
        return posixpath.splitext(self.path)[1].lower() in SHARD_SUFFIXES


@dataclass(frozen=True)
class Columns:
    """Where shards hold things: a Parquet file's column of images, and the column, or the field of a sample's ``.json``
    in a tar, of captions. Without the latter a sample's ``.txt`` is its caption."""

    image: str = "image"
    captions: str | None = None


@dataclass(frozen=True)
class _Location:
    store: AbstractFileSystem
    path: str
    is_folder: bool

    @property
    def is_local(self) -> bool:
        protocols = self.store.protocol
        return "file" in ((protocols,) if isinstance(protocols, str) else protocols)


class Sources:
    """Folders of photos, and shards, all of one store under one ``root``.

    Raises :class:`DataError` when one of them cannot be reached, is of no known kind, or does not lie under the root.
    """

    def __init__(self, sources: Sequence[str], root: str | None = None, columns: Columns | None = None) -> None:
        self.columns = columns or Columns()
        self._found = [location for source in sources for location in _located(source)]
        if not self._found:
            raise DataError("there is nothing to index: name a folder of photos, tar shards or Parquet files")
        first = self._found[0]
        if any(location.store != first.store for location in self._found):
            raise DataError("the sources lie in different stores: make an index of each, or copy them into one")
        folders = [one.path if one.is_folder else posixpath.dirname(one.path) for one in self._found]
        self._base = posixpath.commonpath(folders) if root is None else _located(root)[0].path
        self._base = self._base.rstrip("/")
        for location, folder in zip(self._found, folders, strict=True):
            if f"{folder}/".removeprefix(f"{self._base}/") == f"{folder}/" and self._base:
                raise DataError(f"{location.path} does not lie under the root {root}")
        self.root: Root = Path(self._base or "/") if first.is_local else first.store.unstrip_protocol(self._base)

    def units(self) -> Iterator[Unit]:
        """Each once, in an order that stays. Raises :class:`DataError` for a folder that cannot be listed."""
        seen: set[str] = set()
        for location in self._found:
            for unit in self._units(location):
                if unit.path not in seen:
                    seen.add(unit.path)
                    yield unit

    def _units(self, location: _Location) -> Iterator[Unit]:
        if not location.is_folder:
            info = location.store.info(location.path)
            yield Unit(self._relative(location.path), info["size"] or 0, _version(info, self.columns))
        elif location.is_local:
            assert isinstance(self.root, Path)
            for image in photos_in(Path(location.path)).images:
                try:
                    facts = image.path.stat()
                    size, version = facts.st_size, facts.st_mtime_ns
                except OSError:
                    size = version = 0
                yield Unit(relative(image.path, self.root), size, version, image.captions)
        else:
            captions = _captions(location)
            for path, info in _walk(location):
                name = path.removeprefix(location.path).lstrip("/")
                yield Unit(self._relative(path), info["size"] or 0, _version(info), captions.get(name, ()))

    def _relative(self, path: str) -> str:
        return path.removeprefix(self._base).lstrip("/")


def _located(source: str) -> list[_Location]:
    """The places that a source names; a pattern names several, in order."""
    try:
        store, path = url_to_fs(source)
        if any(character in path for character in "*?["):
            paths = sorted(str(one) for one in store.glob(path))
            if not paths:
                raise FileNotFoundError("no file fits the pattern")
        else:
            paths = [path]
        found = [_Location(store, one.rstrip("/"), store.isdir(one)) for one in paths]
        for location in found:
            if not location.is_folder:
                store.info(location.path)
    except Exception as error:  # each store's library has its own
        raise DataError(f"{source} cannot be reached: {error or type(error).__name__}") from error
    for location in found:
        if not location.is_folder and posixpath.splitext(location.path)[1].lower() not in SHARD_SUFFIXES:
            raise DataError(f"{location.path} is neither a folder of photos nor a .tar or .parquet file")
        if MEMBER in location.path:
            raise DataError(f"{location.path} has {MEMBER} in its name, which marks a photo in a shard; rename it")
    if found and found[0].is_local:
        return [_Location(one.store, str(Path(one.path).resolve()), one.is_folder) for one in found]
    return found


def _walk(folder: _Location) -> Iterator[tuple[str, dict[str, Any]]]:
    """A folder's photos, one listing at a time, without hidden ones."""
    found = False
    for path, folders, files in folder.store.walk(folder.path, detail=True, on_error="raise"):
        for name in [name for name in folders if name.startswith(".")]:
            del folders[name]
        for name in sorted(files):
            if posixpath.splitext(name)[1].lower() in PHOTO_SUFFIXES and not name.startswith("."):
                found = True
                yield f"{path.rstrip('/')}/{name}", files[name]
    if not found:
        raise DataError(f"{folder.path} holds no photos ({', '.join(sorted(PHOTO_SUFFIXES))})")


def _captions(folder: _Location) -> dict[str, tuple[str, ...]]:
    """What the caption file beside the photos says, by the photos' names."""
    for pattern in layouts.CAPTION_FILES:
        for path in sorted(str(one) for one in folder.store.glob(f"{folder.path}/{pattern}")):
            with tempfile.TemporaryDirectory() as beside:
                copy = Path(beside, posixpath.basename(path))
                folder.store.get_file(path, str(copy))
                return dict(caption_files.read(copy).captions)
    return {}


def _version(info: dict[str, Any], columns: Columns | None = None) -> int:
    """56 bits of a digest: SQLite's integers have a sign."""
    told = repr([info.get(mark) for mark in _MARKS] + [info["size"], columns])
    return int.from_bytes(hashlib.sha256(told.encode()).digest()[:7])
