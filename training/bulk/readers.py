"""From a file of a source to its photos, decoded: what runs beside the data, on whichever machine."""

from __future__ import annotations

import json
import posixpath
import tarfile
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, BinaryIO

from shared.artifacts import ImagePreprocessing
from shared.collections import Photo
from shared.collections.addresses import Root, image_bytes, opened, parquet_row, read, tar_member
from training.bulk.sources import Columns, Unit
from training.data.captioned import PHOTO_SUFFIXES
from training.index_photos import Looked, look_at, spelled

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

# The version of a file that could not be read: the next run looks at it again, for the store may be back by then.
UNREAD = -1
_READERS = 8  # of files at a time; an object store takes its time for each


@dataclass(frozen=True)
class Reader:
    """Reads what lies under ``root`` and decodes it for a model."""

    root: Root
    columns: Columns
    preprocessing: ImagePreprocessing

    def photos(self, units: Collection[Unit]) -> Iterator[Looked]:
        """Photos that are files of their own, in order."""
        with ThreadPoolExecutor(_READERS) as pool:
            yield from pool.map(self._photo, units)

    def shard(self, unit: Unit, known: Collection[str]) -> Iterator[Looked]:
        """A shard's photos, without those that are ``known``, and in the end :func:`whole` of the shard itself."""
        count, problem = len(known), None
        try:
            with opened(self.root, unit.path) as file:
                reading = self._tar if unit.path.lower().endswith(".tar") else self._parquet
                for looked in reading(file, unit, known):
                    count += 1
                    yield looked
        except _Broken as error:
            problem = str(error)
        except OSError as error:
            yield Looked(Photo(unit.path, 0, UNREAD, (), problem=str(error)))
            return
        yield Looked(whole(unit, count, problem))

    def _photo(self, unit: Unit) -> Looked:
        photo = Photo(unit.path, unit.size, unit.version, unit.captions)
        try:
            return look_at(photo, read(self.root, unit.path), self.preprocessing)
        except OSError as error:
            return Looked(replace(photo, mtime_ns=UNREAD, problem=str(error)))

    def _tar(self, file: BinaryIO, unit: Unit, known: Collection[str]) -> Iterator[Looked]:
        """WebDataset's layout: members that share a name up to the first point of its last part are one sample."""
        try:
            archive = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115  # the file is closed by who opened it
        except tarfile.ReadError as error:
            raise _Broken(f"it is not an uncompressed tar file: {error}") from error
        cut: list[tarfile.ReadError] = []
        for _, sample in groupby(_members(archive, cut), _sample):
            members = list(sample)
            images = [one for one in members if posixpath.splitext(one.name)[1].lower() in PHOTO_SUFFIXES]
            addresses = [tar_member(unit.path, one.offset_data, one.size, spelled(one.name)) for one in images]
            if all(address in known for address in addresses):
                continue
            captions = self._said(file, members)
            for image, address in zip(images, addresses, strict=True):
                if address not in known:
                    photo = Photo(address, image.size, unit.version, captions)
                    data = _content(file, image)
                    if len(data) < image.size:
                        yield Looked(replace(photo, problem="the tar file ends in the middle of it"))
                    else:
                        yield look_at(photo, data, self.preprocessing)
        if cut:
            raise _Broken(f"it is cut off or damaged: {cut[0]}")

    def _said(self, file: BinaryIO, members: list[tarfile.TarInfo]) -> tuple[str, ...]:
        """A sample's captions; none where they cannot be read."""
        suffix = ".txt" if self.columns.captions is None else ".json"
        for member in members:
            if member.name.lower().endswith(suffix):
                text = _content(file, member).decode("utf-8", "replace")
                if self.columns.captions is None:
                    return (text.strip(),)
                try:
                    return _texts(json.loads(text).get(self.columns.captions))
                except (ValueError, AttributeError, RecursionError):
                    return ()
        return ()

    def _parquet(self, file: BinaryIO, unit: Unit, known: Collection[str]) -> Iterator[Looked]:
        from pyarrow import ArrowException, parquet

        try:
            table = parquet.ParquetFile(file)
        except ArrowException as error:
            raise _Broken(f"it is not a Parquet file: {error}") from error
        there = table.schema_arrow.names
        for column in (self.columns.image, self.columns.captions):
            if column is not None and column not in there:
                raise _Broken(f"it has no column {column!r}, but {', '.join(there)}")
        failed: list[str] = []
        for group in range(table.num_row_groups):
            try:
                yield from self._row_group(table, group, unit, known)
            except (ArrowException, OSError) as error:  # damaged, or the store did not answer: that looks the same
                failed.append(f"row group {group} cannot be read: {error}")
        if failed:
            raise OSError("; ".join(failed[:3]))

    def _row_group(self, table: ParquetFile, group: int, unit: Unit, known: Collection[str]) -> Iterator[Looked]:
        image, said = self.columns.image, self.columns.captions
        row = -1
        for batch in table.iter_batches(batch_size=64, row_groups=[group], columns=[image, *([said] if said else [])]):
            for cells in batch.to_pylist():
                row += 1
                name = _name(cells[image]) or f"{group}-{row}"
                address = parquet_row(unit.path, group, row, image, name)
                if address not in known:
                    captions = _texts(cells[said]) if said else ()
                    yield self._cell(Photo(address, 0, unit.version, captions), cells[image])

    def _cell(self, photo: Photo, cell: Any) -> Looked:
        data = image_bytes(cell)
        if data is None:
            return Looked(replace(photo, problem=f"column {self.columns.image!r} holds no image there"))
        return look_at(replace(photo, size=len(data)), data, self.preprocessing)


def whole(unit: Unit, members: int, problem: str | None = None) -> Photo:
    """What the builder knows a shard by after all of it was looked at, while it knows so many of its members."""
    return Photo(unit.path, unit.size, unit.version, (str(members),), problem=problem)


class _Broken(Exception):
    """A shard that will be no better the next time."""


def _members(archive: tarfile.TarFile, cut: list[tarfile.ReadError]) -> Iterator[tarfile.TarInfo]:
    """The archive's files; where it ends too early, the error is put into ``cut``."""
    try:
        for member in archive:
            if member.isreg() and not member.issparse() and not posixpath.basename(member.name).startswith("."):
                yield member
    except tarfile.ReadError as error:
        cut.append(error)


def _sample(member: tarfile.TarInfo) -> str:
    folder, name = posixpath.split(member.name)
    return posixpath.join(folder, name.partition(".")[0])


def _content(file: BinaryIO, member: tarfile.TarInfo) -> bytes:
    file.seek(member.offset_data)
    return file.read(member.size)


def _name(cell: Any) -> str | None:
    """The photo's name, which Hugging Face's data sets keep beside its bytes."""
    name = cell.get("path") if isinstance(cell, dict) else None
    return posixpath.basename(name) if isinstance(name, str) else None


def _texts(value: object) -> tuple[str, ...]:
    """Captions of a column or field that holds one or a list of them."""
    values = value if isinstance(value, list) else [value]
    return tuple(text for text in values if isinstance(text, str))
