"""Indexing on Ray Data: tasks read and decode, actors that each hold one engine embed, and the driver alone writes.

The driver takes in finished photos in the order in which they were listed, and commits them batch by batch. So
whatever is killed, no more is lost than what was not committed yet, and the next run looks at exactly that.
"""

from __future__ import annotations

import pickle
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from shared.artifacts import ModelManifest, read_manifest
from shared.collections import IndexBuilder, Photo
from shared.collections.addresses import MEMBER, Root
from shared.engines import Engine, open_engine
from training.bulk.cluster import connect, share_of
from training.bulk.readers import UNREAD, Reader, whole
from training.bulk.sources import Sources, Unit
from training.data.captioned import DataError
from training.index_photos import Looked, embedded, settled, usable

_PHOTOS = 64  # files that one task reads
_TABLE = 16  # photos of one table within a block
_BLOCKS = 10_000

# A task's work: units, and of shards what is known of each.
Work = list[tuple[Unit, Collection[str]]]


class BulkPhotos:
    """:class:`training.index_build.Photos` that are recorded by a Ray cluster at ``address``.

    ``concurrency`` engines embed at the same time; by default one on each GPU, or else on each core. The model's folder
    is sent to them. Raises :class:`DataError` when no cluster can be reached.
    """

    def __init__(self, sources: Sources, model: Path, address: str = "auto", concurrency: int | None = None) -> None:
        self._sources = sources
        self._model = model
        self._address = address
        self._concurrency = concurrency
        self._units = list(sources.units())

    @property
    def root(self) -> Root:
        return self._sources.root

    def paths(self, builder: IndexBuilder) -> Collection[str]:
        there = {unit.path for unit in self._units}
        for unit in self._units:
            if unit.is_shard:
                there |= {path for path, version in builder.members(unit.path).items() if version == unit.version}
        return there

    def record(
        self,
        builder: IndexBuilder,
        engine: Callable[[], Engine],
        kept: Collection[str],
        batch_size: int,
        console: Console,
    ) -> int:
        unusable = 0
        unread: set[str] = set()
        while waiting := [unit for unit in self._units if unit.path not in unread and not _known(builder, unit)]:
            connect(self._address)
            done = problems = 0
            started = time.monotonic()
            with _progress(console) as progress:
                total = None if any(unit.is_shard for unit in waiting) else len(waiting)
                task = progress.add_task("", total=total, problems=0, speed="")
                for batch in self._photos(builder, waiting, batch_size):
                    photos = settled(builder, batch, kept)
                    builder.add(photos)
                    unread |= {photo.path.partition(MEMBER)[0] for photo in photos if photo.mtime_ns == UNREAD}
                    unusable += sum(not usable(text) for photo in photos if photo.item for text in photo.captions)
                    done += sum(photo.image_id is not None or photo.problem is not None for photo in photos)
                    problems += sum(photo.problem is not None for photo in photos)
                    speed = f"{done / (time.monotonic() - started):,.1f}"
                    progress.update(task, completed=done, problems=problems, speed=speed)
            console.print(f"looked at {done:,} photos, {speed} a second; {problems:,} left out", highlight=False)
        return unusable

    def _photos(self, builder: IndexBuilder, waiting: Sequence[Unit], batch_size: int) -> Iterator[list[Photo]]:
        """The photos of these units with their items, in order, as they are finished."""
        share = share_of(self._concurrency)
        manifest = read_manifest(self._model)
        assert isinstance(manifest, ModelManifest)
        names = ["manifest.json", *manifest.files]
        model = ray.put({name: (self._model / name).read_bytes() for name in names})
        reader = Reader(self._sources.root, self._sources.columns, manifest.preprocessing)
        works = [{"work": pickle.dumps(work)} for work in _works(builder, waiting)]
        try:
            seen = ray.data.from_items(works, override_num_blocks=min(len(works), _BLOCKS)).map_batches(
                partial(_read, reader=reader), batch_size=1, batch_format="pyarrow", num_cpus=share.reader_cpus
            )
            made = seen.map_batches(
                _Embedder,
                fn_constructor_args=(model, share.threads),
                batch_size=batch_size,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=share.engines),
                num_cpus=share.engine_cpus,
                num_gpus=share.engine_gpus,
            )
            batch: Any
            for batch in made.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                yield [pickle.loads(photo) for photo in batch["photo"].to_pylist()]  # noqa: S301
        except ray.exceptions.RayError as error:
            raise DataError(f"embedding was cut off, run it again to go on: {error}") from error


class _Embedder:
    """An engine in a process of its own, which may be on another machine."""

    def __init__(self, model: ray.ObjectRef[dict[str, bytes]], threads: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name, data in ray.get(model).items():
                file = Path(folder, name)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
            self._engine = open_engine(Path(folder), engine="auto", threads=threads)

    def __call__(self, batch: Any) -> Any:
        looked = [pickle.loads(one) for one in batch["looked"].to_pylist()]  # noqa: S301  # as Ray itself sends things
        return _table("photo", embedded(self._engine, looked))


def _read(batch: Any, reader: Reader) -> Iterator[Any]:
    for work in batch["work"].to_pylist():
        waiting: list[Looked] = []
        for looked in _looked(pickle.loads(work), reader):  # noqa: S301
            waiting.append(looked)
            if len(waiting) == _TABLE:
                yield _table("looked", waiting)
                waiting = []
        yield _table("looked", waiting)


def _looked(work: Work, reader: Reader) -> Iterator[Looked]:
    if work[0][0].is_shard:
        for unit, known in work:
            yield from reader.shard(unit, known)
    else:
        yield from reader.photos([unit for unit, _ in work])


def _table(column: str, values: Sequence[object]) -> Any:
    """Pickled, for captions and names need not be text that Arrow takes."""
    return pa.table({column: pa.array([pickle.dumps(value) for value in values], pa.binary())})


def _works(builder: IndexBuilder, waiting: Sequence[Unit]) -> Iterator[Work]:
    """Each shard by itself and photos by the dozen, in their order."""
    photos: Work = []
    for unit in waiting:
        if photos and (unit.is_shard or len(photos) == _PHOTOS):
            yield photos
            photos = []
        if unit.is_shard:
            yield [(unit, frozenset(builder.members(unit.path)))]
        else:
            photos.append((unit, ()))
    if photos:
        yield photos


def _known(builder: IndexBuilder, unit: Unit) -> bool:
    captions = whole(unit, len(builder.members(unit.path))).captions if unit.is_shard else unit.captions
    return builder.knows(unit.path, unit.size, unit.version, captions)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("embedding"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]} a second"),
        TextColumn("{task.fields[problems]} left out"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
