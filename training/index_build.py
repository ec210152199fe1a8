"""Build an index: every photo and caption through a published model, into an artifact, in steps that can be cut off.

Needs no torch: it computes with the engine that serves.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, track

from shared.artifacts import ArtifactError, ArtifactStore, IndexManifest, ModelManifest, Ref
from shared.collections import CAPTIONS, IMAGES, LIBRARIES, IndexBuilder, LibraryReader, Photo, Sealing
from shared.engines import Engine, open_engine
from shared.engines.images import ImageError, pixels
from training.data import layouts
from training.data.captioned import PHOTO_SUFFIXES, CaptionedImage, DataError
from training.index_photos import Looked, embedded, is_text, look_at, settled, spelled, usable, with_items

_SHOWN_PROBLEMS = 5
_LIBRARY = "library://"  # no path under a folder looks like this


class Photos(Protocol):
    """Photos to make an index of."""

    @property
    def root(self) -> Path | str:
        """What their paths are under: a folder or an fsspec URL."""

    def paths(self, builder: IndexBuilder) -> Collection[str]:
        """All that is there, as the builder records it, and nothing that is to be forgotten."""

    def record(
        self,
        builder: IndexBuilder,
        engine: Callable[[], Engine],
        kept: Collection[str],
        batch_size: int,
        console: Console,
    ) -> int:
        """Have the builder know all of them. Returns how many of their captions cannot be used. Of photos in ``kept``
        the library has the say."""


@dataclass(frozen=True)
class Source:
    """Photos under the folder ``root``, with captions where there are any."""

    root: Path
    images: Sequence[CaptionedImage]

    @cached_property
    def _by_path(self) -> dict[str, CaptionedImage]:
        return {relative(image.path, self.root): image for image in self.images}

    def paths(self, _: IndexBuilder) -> Collection[str]:
        return self._by_path

    def record(
        self,
        builder: IndexBuilder,
        engine: Callable[[], Engine],
        kept: Collection[str],
        batch_size: int,
        console: Console,
    ) -> int:
        while waiting := [entry for entry in self._by_path.items() if not _known(builder, *entry)]:
            _embed(builder, engine(), self.root, waiting, kept, batch_size, console)
        return sum(not usable(caption) for image in self.images for caption in image.captions)


def photos_in(folder: Path, captions_file: Path | None = None) -> Source:
    """Every image file under ``folder``, with its captions where a caption file has some. Raises :class:`DataError`."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder of photos")
    captioned: dict[Path, CaptionedImage] = {}
    if captions_file is not None or layouts.find_captions(folder) is not None:
        captioned = {image.path: image for image in layouts.load(folder, "all", captions_file=captions_file).images}
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in PHOTO_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )
    if not files:
        raise DataError(f"{folder} holds no photos ({', '.join(sorted(PHOTO_SUFFIXES))})")
    return Source(folder, [captioned.get(path) or CaptionedImage(path, path.name, ()) for path in files])


def build(
    store: ArtifactStore,
    model: Ref,
    source: Photos,
    work: Path,
    *,
    name: str,
    batch_size: int = 32,
    threads: int | None = None,
    activate: bool = True,
    sealing: Sealing | None = None,
    console: Console,
) -> Ref:
    """Bring the index in ``work`` up to date with ``source``, publish it and, if asked, serve it.

    Files that have not changed are not read again. Unusable photos and captions are left out and counted. When nothing
    has changed since the newest published version, that version is returned. Raises :class:`ArtifactError`,
    :class:`DataError`.
    """
    manifest = store.model(model)
    library = LibraryReader(store.root / LIBRARIES / name)
    with IndexBuilder(work, manifest, source.root) as builder:
        revision, kept = library.revision(), library.known()
        there = source.paths(builder)
        put_in = {f"{_LIBRARY}{image_id}@{seq}": image_id for image_id, seq in kept.items()}
        gone = [path for path in builder.keep_only([*there, *put_in]) if not path.startswith(_LIBRARY)]
        builder.forget(image_id for image_id in kept if builder.path_of(image_id) in there)
        engine = cache(lambda: open_engine(store.path("model", model), engine="auto", threads=threads))
        unusable = source.record(builder, engine, kept.keys(), batch_size, console)
        for path, image_id in track(put_in.items(), "photos put in", console=console, disable=not put_in):
            photo = _put_in(builder, library, manifest, path, image_id, kept[image_id])
            if photo is not None and photo.item is None:
                photo = _seen(photo, library, engine(), image_id)
            if photo is not None:
                builder.add([photo])
        counts, problems = builder.counts(), builder.problems()
        console.print(
            f"index {name}: {counts['images']:,} photos, {counts['captions']:,} captions"
            + (f"; {len(gone):,} gone from the folder" if gone else ""),
            highlight=False,
        )
        if problems:
            console.print(f"left out {len(problems):,} files:", highlight=False)
            for path, problem in problems[:_SHOWN_PROBLEMS]:
                console.print(f"  {path}: {problem}", highlight=False, markup=False)
        if unusable:
            console.print(f"left out {unusable:,} captions that are empty, too long or not Unicode", highlight=False)
        if counts["images"] == 0:
            raise DataError(f"none of the {len(problems):,} files in {source.root} could be read as a photo")
        ref = _publish(store, builder, work / "sealed", name, manifest.fingerprint, revision, sealing or Sealing())
    for collection, shard in store.index(ref).shards.items():
        if shard.kind != "flat":
            settings = ", ".join(f"{key} {value}" for key, value in shard.parameters.items())
            said = f"{collection}: {shard.kind} ({settings}), recall at 10 {shard.recall_at_10:.3f}"
            short = shard.recall_at_10 < shard.target
            console.print(said + (f", short of {shard.target:g}" if short else ""), highlight=False)
    current = store.current()
    if activate and (current is None or (current.model, current.index) != (str(model), str(ref))):
        store.activate(model, ref)
    return ref


def check_vocabulary(model: Path, vocab: Path) -> None:
    """Refuse a vocabulary that is not the one the model was trained with. Raises :class:`ArtifactError`."""
    own = model / "vocab.json"
    if not own.exists():
        raise ArtifactError(f"{model} has no vocabulary: its tokenizer came with its text tower; leave --vocab out")
    try:
        given = json.loads(vocab.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(f"{vocab} cannot be read: {error}") from error
    except ValueError as error:
        raise ArtifactError(f"{vocab} is not a vocabulary: {error}") from error
    if json.loads(own.read_text(encoding="utf-8")) != given:
        raise ArtifactError(f"{vocab} is not the vocabulary that the model was trained with ({own})")


def _known(builder: IndexBuilder, path: str, image: CaptionedImage) -> bool:
    try:
        facts = image.path.stat()
    except OSError:
        return builder.knows(path, 0, 0, image.captions)
    return builder.knows(path, facts.st_size, facts.st_mtime_ns, image.captions)


def _embed(
    builder: IndexBuilder,
    engine: Engine,
    root: Path,
    waiting: Sequence[tuple[str, CaptionedImage]],
    kept: Collection[str],
    batch_size: int,
    console: Console,
) -> None:
    """Look at the files, embed what can be read, and commit batch by batch."""
    columns = (TextColumn("indexing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress, ThreadPoolExecutor() as pool:
        task = progress.add_task("", total=len(waiting))
        for start in range(0, len(waiting), batch_size):
            batch = waiting[start : start + batch_size]
            looked = list(pool.map(lambda entry: _look(root, entry[0], entry[1], engine), batch))
            photos = settled(builder, [one.photo for one in looked], kept)
            found = [Looked(photo, one.pixels) for photo, one in zip(photos, looked, strict=True)]
            builder.add(embedded(engine, found))
            progress.advance(task, len(batch))


def _look(root: Path, path: str, image: CaptionedImage, engine: Engine) -> Looked:
    photo = Photo(path, 0, 0, image.captions)
    try:
        facts = image.path.stat()
        photo = replace(photo, size=facts.st_size, mtime_ns=facts.st_mtime_ns)
        # Neither could be served: the index service keeps to the photo folder, and stores names as text.
        if not image.path.resolve().is_relative_to(root.resolve()):
            raise OSError("it is a link to a file outside the photo folder")
        if not is_text(str(image.path)):
            raise OSError("its name is not valid UTF-8; rename it")
        return look_at(photo, image.path.read_bytes(), engine.manifest.preprocessing)
    except OSError as error:
        return Looked(replace(photo, problem=str(error)))


def _put_in(
    builder: IndexBuilder, library: LibraryReader, model: ModelManifest, path: str, image_id: str, seq: int
) -> Photo | None:
    """What the builder records of a photo of the library, without an item when the model has not seen it yet. None when
    it was removed, or the builder has it as it is."""
    try:
        kept = library.photo(image_id)
    except KeyError:
        return None
    assert kept is not None
    captions, size = kept.about["captions"], kept.about["bytes"]
    if builder.knows(path, size, seq, captions):
        return None
    made = library.items(image_id, model.fingerprint, model.token_dim)
    item = made[IMAGES][0] if made else None
    return Photo(path, size, seq, captions, image_id, item, made.get(CAPTIONS, ()))


def _seen(photo: Photo, library: LibraryReader, engine: Engine, image_id: str) -> Photo:
    """A photo of the library after the model has looked at it."""
    kept = library.photo(image_id)
    assert kept is not None
    try:
        found = pixels(library.file(kept.sha256).read_bytes(), engine.manifest.preprocessing)
    except (ImageError, OSError) as error:
        return replace(photo, problem=str(error))
    image = engine.embed_images(found[None])
    seen = with_items(photo, engine, image.embedding[0], image.tokens[0])
    assert seen.item is not None
    about = {key: kept.about[key] for key in ("name", "bytes", "tags", "metadata")}
    return replace(seen, item=replace(seen.item, metadata=about))


def _publish(
    store: ArtifactStore,
    builder: IndexBuilder,
    sealed: Path,
    name: str,
    fingerprint: str,
    library_seq: int,
    sealing: Sealing,
) -> Ref:
    """Publish by way of the folder ``sealed``, unless the newest version holds the same, unharmed."""
    versions = [m for m in store.published("index") if m.name == name and m.fingerprint == fingerprint]
    newest = versions[-1] if versions else None
    if isinstance(newest, IndexManifest) and newest.contents == builder.contents(library_seq, sealing):
        ref = Ref.parse(newest.ref)
        with suppress(ArtifactError):
            store.verify("index", ref)
            return ref
    shutil.rmtree(sealed, ignore_errors=True)
    try:
        manifest = builder.seal(sealed, name, store.next_version("index", name), library_seq, sealing)
        store.publish(sealed)
    finally:
        shutil.rmtree(sealed, ignore_errors=True)
    return Ref.parse(manifest.ref)


def relative(path: Path, root: Path) -> str:
    """Posix path under ``root``; bytes that are no UTF-8 are spelt out."""
    return spelled(path.relative_to(root).as_posix())
