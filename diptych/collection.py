"""Which photos ``diptych up`` serves: a folder of one's own, a data set, or the gallery that comes along."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diptych import gallery


class CollectionError(Exception):
    """The photos asked for are not there."""


@dataclass(frozen=True)
class Collection:
    """``name`` is that of the index; ``examples`` are queries that find something (None: the demo's own)."""

    title: str
    name: str
    folder: Path
    examples: Sequence[str] | None = None


def choose(photos: Path | None, flickr8k: Path | None, gallery_folder: Path) -> Collection:
    """What to serve. Without ``photos`` and ``flickr8k``: the gallery, which is to be laid out in ``gallery_folder``.

    Raises :class:`CollectionError` when a folder is not there, or both are given.
    """
    if photos and flickr8k:
        raise CollectionError("give --photos or --flickr8k (PHOTOS= or FLICKR8K= with make), not both")
    if not (photos or flickr8k):
        return Collection("the gallery", "gallery", gallery_folder, gallery.EXAMPLES)
    folder = (photos or flickr8k or Path()).expanduser().resolve()
    if not folder.is_dir():
        raise CollectionError(f"{folder} is not a folder: give one that holds photos")
    if flickr8k:
        return Collection(f"Flickr8k in {folder}", "flickr8k", folder)
    return Collection(f"the photos in {folder}", index_name(folder), folder)


def index_name(folder: Path) -> str:
    """A name for a folder's index that people recognise, and that no other folder gets."""
    readable = re.sub(r"[^a-z0-9]+", "-", folder.name.lower()).strip("-")[:40] or "photos"
    return f"{readable}-{hashlib.sha256(str(folder).encode()).hexdigest()[:6]}"


def lay_out(photos: Sequence[gallery.Photo], folder: Path) -> None:
    """Make ``folder`` an ordinary data set of exactly these photos: the files, and ``captions.jsonl`` beside them.

    What is there already is left as it is, so that an index of it stays good.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = {photo.name for photo in photos}
    for path in folder.iterdir():
        if path.name not in names:
            path.unlink()
    for photo in photos:
        target = folder / photo.name
        if not target.exists() or target.stat().st_size != photo.path.stat().st_size:
            shutil.copyfile(photo.path, target)
    lines = [json.dumps({"image": photo.name, "captions": list(photo.captions)}) for photo in photos]
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
