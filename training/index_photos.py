"""From a photo's bytes to what an index records of it, wherever the bytes come from and wherever that is computed."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shared.artifacts import ImagePreprocessing
from shared.collections import IndexBuilder, Item, Photo
from shared.engines import Engine
from shared.engines.images import ImageError, pixels
from shared.engines.texts import TextError, check
from shared.tokens import TokenFeatures


@dataclass(frozen=True)
class Looked:
    """A file that was read: a photo with its id and its ``pixels``, or with the problem why it has none."""

    photo: Photo
    pixels: npt.NDArray[np.uint8] | None = None


def look_at(photo: Photo, data: bytes, preprocessing: ImagePreprocessing) -> Looked:
    """Decode a photo's ``data``; the id is the first 16 hexadecimal digits of its sha256."""
    try:
        found = pixels(data, preprocessing)
    except ImageError as error:
        return Looked(replace(photo, problem=str(error)))
    return Looked(replace(photo, image_id=hashlib.sha256(data).hexdigest()[:16]), found)


def settled(builder: IndexBuilder, photos: Sequence[Photo], kept: Collection[str]) -> list[Photo]:
    """The photos of a batch that is about to be recorded, those with a problem that are a second copy of another one.

    Of photos in ``kept`` the library has the say.
    """
    taken: dict[str, str] = {}
    changing = {photo.path for photo in photos}  # what the builder knows of these is about to be replaced
    found: list[Photo] = []
    for photo in photos:
        problem = photo.problem
        if problem is None and photo.image_id is not None:
            first = taken.get(photo.image_id) or builder.path_of(photo.image_id)
            if first in changing and photo.image_id not in taken:
                first = None
            if photo.image_id in kept:
                problem = f"photo {photo.image_id} was replaced or removed through the gateway"
            elif first is not None:
                problem = f"the same photo as {first}"
            else:
                taken[photo.image_id] = photo.path
        found.append(photo if problem is None else replace(photo, problem=problem, item=None, caption_items=()))
    return found


def embedded(engine: Engine, looked: Sequence[Looked]) -> list[Photo]:
    """The photos with their items and their captions', those with a problem as they are."""
    seen = [one.pixels for one in looked if one.photo.problem is None and one.pixels is not None]
    if not seen:
        return [one.photo for one in looked]
    images = engine.embed_images(np.stack(seen))
    rows = iter(range(len(seen)))
    photos: list[Photo] = []
    for one in looked:
        if one.photo.problem is None and one.pixels is not None:
            row = next(rows)
            photos.append(with_items(one.photo, engine, images.embedding[row], images.tokens[row]))
        else:
            photos.append(one.photo)
    return photos


def with_items(photo: Photo, engine: Engine, vector: npt.NDArray[np.float32], tokens: TokenFeatures) -> Photo:
    """The photo with its item and its captions'."""
    assert photo.image_id is not None
    metadata = {"name": Path(photo.path).name, "path": photo.path, "bytes": photo.size}
    captions: list[Item] = []
    if found := [(n, caption) for n, caption in enumerate(photo.captions) if usable(caption)]:
        texts = engine.embed_texts([caption for _, caption in found])
        for row, (n, caption) in enumerate(found):
            about = {"caption": caption, "image_id": photo.image_id}
            captions.append(Item(f"{photo.image_id}-{n}", about, texts.embedding[row], texts.tokens[row]))
    return replace(photo, item=Item(photo.image_id, metadata, vector, tokens), caption_items=captions)


def usable(caption: str) -> bool:
    """False for a caption that is empty, too long or not Unicode."""
    try:
        check(caption)
    except TextError:
        return False
    return True


def is_text(name: str) -> bool:
    """False for a file name with bytes that are no UTF-8, which Python holds as lone surrogates."""
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)


def spelled(name: str) -> str:
    """The name as text; bytes that are no UTF-8 are spelt out."""
    return name if is_text(name) else name.encode("utf-8", "backslashreplace").decode()
