"""Build an index: every photo and caption through a published model, into an artifact, in steps that can be cut off.

Needs no torch: it computes with the engine that serves.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, track

from shared.artifacts import ArtifactError, ArtifactStore, IndexManifest, ModelManifest, Ref
from shared.collections import CAPTIONS, IMAGES, LIBRARIES, IndexBuilder, Item, LibraryReader, Photo, Sealing
from shared.engines import Engine, open_engine
from shared.engines.images import ImageError, pixels
from shared.engines.texts import TextError, check
from shared.tokens import TokenFeatures
from training.data import layouts
from training.data.captioned import PHOTO_SUFFIXES, CaptionedImage, DataError

_SHOWN_PROBLEMS = 5
_LIBRARY = "library://"  # no path under a folder looks like this


@dataclass(frozen=True)
class Source:
    """Photos under ``root``, with captions where there are any."""

    root: Path
    images: Sequence[CaptionedImage]


@dataclass(frozen=True)
class _Looked:
    """A file that was read: its pixels, or why it has none."""

    image: CaptionedImage
    size: int
    mtime_ns: int
    image_id: str | None = None
    pixels: npt.NDArray[np.uint8] | None = None
    problem: str | None = None


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
    source: Source,
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
        by_path = {_relative(image.path, source.root): image for image in source.images}
        put_in = {f"{_LIBRARY}{image_id}@{seq}": image_id for image_id, seq in kept.items()}
        gone = [path for path in builder.keep_only([*by_path, *put_in]) if not path.startswith(_LIBRARY)]
        builder.forget(image_id for image_id in kept if builder.path_of(image_id) in by_path)
        unusable = sum(not _usable(caption) for image in source.images for caption in image.captions)
        engine: Engine | None = None
        while waiting := [path for path, image in by_path.items() if not _known(builder, path, image)]:
            engine = engine or open_engine(store.path("model", model), engine="auto", threads=threads)
            looking = [(path, by_path[path]) for path in waiting]
            _embed(builder, engine, source.root, looking, kept.keys(), batch_size, console)
        for path, image_id in track(put_in.items(), "photos put in", console=console, disable=not put_in):
            photo = _put_in(builder, library, manifest, path, image_id, kept[image_id])
            if photo is not None and photo.item is None:
                engine = engine or open_engine(store.path("model", model), engine="auto", threads=threads)
                photo = _seen(photo, library, engine, image_id)
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
            raise DataError(f"none of the {len(by_path):,} files in {source.root} could be read as a photo")
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
            looked = list(pool.map(lambda entry: _look(root, entry[1], engine), batch))
            builder.add(_photos(builder, engine, [path for path, _ in batch], looked, kept))
            progress.advance(task, len(batch))


def _look(root: Path, image: CaptionedImage, engine: Engine) -> _Looked:
    size = mtime_ns = 0
    try:
        facts = image.path.stat()
        size, mtime_ns = facts.st_size, facts.st_mtime_ns
        # Neither could be served: the index service keeps to the photo folder, and stores names as text.
        if not image.path.resolve().is_relative_to(root.resolve()):
            raise OSError("it is a link to a file outside the photo folder")
        if not _is_text(str(image.path)):
            raise OSError("its name is not valid UTF-8; rename it")
        data = image.path.read_bytes()
        found = pixels(data, engine.manifest.preprocessing)
    except (ImageError, OSError) as error:
        return _Looked(image, size, mtime_ns, problem=str(error))
    return _Looked(image, size, mtime_ns, hashlib.sha256(data).hexdigest()[:16], found)


def _photos(
    builder: IndexBuilder, engine: Engine, paths: Sequence[str], looked: Sequence[_Looked], kept: Collection[str]
) -> list[Photo]:
    """What the builder records of a batch: embedded photos, second copies, and files with a problem. Of photos in
    ``kept`` the library has the say."""
    taken: dict[str, str] = {}
    changing = set(paths)  # what the builder knows of these is about to be replaced
    fresh: list[int] = []
    photos: list[Photo] = []
    for place, (path, one) in enumerate(zip(paths, looked, strict=True)):
        first = None
        left_out = one.problem
        if one.image_id in kept:
            left_out = f"photo {one.image_id} was replaced or removed through the gateway"
        elif one.image_id is not None:
            first = taken.get(one.image_id) or builder.path_of(one.image_id)
            if first in changing and one.image_id not in taken:
                first = None
            if first is None:
                taken[one.image_id] = path
                fresh.append(place)
        problem = left_out or (f"the same photo as {first}" if first else None)
        photos.append(Photo(path, one.size, one.mtime_ns, one.image.captions, one.image_id, problem=problem))
    if fresh:
        stacked = np.stack([found for place in fresh if (found := looked[place].pixels) is not None])
        images = engine.embed_images(stacked)
        for row, place in enumerate(fresh):
            photos[place] = _embedded(photos[place], engine, images.embedding[row], images.tokens[row])
    return photos


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
    seen = _embedded(photo, engine, image.embedding[0], image.tokens[0])
    assert seen.item is not None
    about = {key: kept.about[key] for key in ("name", "bytes", "tags", "metadata")}
    return replace(seen, item=replace(seen.item, metadata=about))


def _embedded(photo: Photo, engine: Engine, vector: npt.NDArray[np.float32], tokens: TokenFeatures) -> Photo:
    """The photo with its item and its captions'."""
    assert photo.image_id is not None
    metadata = {"name": Path(photo.path).name, "path": photo.path, "bytes": photo.size}
    captions: list[Item] = []
    if usable := [(n, caption) for n, caption in enumerate(photo.captions) if _usable(caption)]:
        texts = engine.embed_texts([caption for _, caption in usable])
        for row, (n, caption) in enumerate(usable):
            about = {"caption": caption, "image_id": photo.image_id}
            captions.append(Item(f"{photo.image_id}-{n}", about, texts.embedding[row], texts.tokens[row]))
    return replace(photo, item=Item(photo.image_id, metadata, vector, tokens), caption_items=captions)


def _usable(caption: str) -> bool:
    try:
        check(caption)
    except TextError:
        return False
    return True


def _is_text(text: str) -> bool:
    """False for a file name with bytes that are no UTF-8, which Python holds as lone surrogates."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


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


def _relative(path: Path, root: Path) -> str:
    """Posix path under ``root``; bytes that are no UTF-8 are spelt out."""
    name = path.relative_to(root).as_posix()
    return name if _is_text(name) else name.encode("utf-8", "backslashreplace").decode()
