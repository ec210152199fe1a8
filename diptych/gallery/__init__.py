"""The first run's photos: real photographs that ship inside the wheels of libraries, with captions of our own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources, util
from pathlib import Path

# Queries with one right answer, and the photo that is it.
EXAMPLES = (
    "a red motorcycle",
    "an astronaut in an orange suit",
    "a lion lying on a rock",
    "an orange flower",
    "a man with a camera on a tripod",
)
EXPECTED = ("motorcycle_left.png", "astronaut.png", "lion.jpg", "flower.jpg", "camera.png")


class GalleryError(Exception):
    """A photo of the gallery is not installed. Says which package brings it."""


@dataclass(frozen=True)
class Photo:
    """``name`` is unique in the gallery; each of the five ``captions`` describes this photo and no other of them."""

    path: Path
    name: str
    captions: tuple[str, ...]


def photos() -> list[Photo]:
    """The whole gallery. Raises :class:`GalleryError` when a package or file of it is missing."""
    lines = resources.files(__package__).joinpath("captions.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        Photo(_find(entry["package"], entry["path"]), Path(entry["path"]).name, tuple(entry["captions"]))
        for entry in map(json.loads, lines)
    ]


@dataclass(frozen=True)
class ThingName:
    """The name of a thing, and the ``photos`` (their names) that show it, as a person sees them.

    ``imagenet``: it is one of ImageNet's thousand classes, so that a backbone may have learned it by name.
    """

    name: str
    imagenet: bool
    photos: frozenset[str]


def things() -> list[ThingName]:
    """What the photos show, labelled by hand: names of ImageNet's classes, and names that are none of them."""
    lines = resources.files(__package__).joinpath("classes.jsonl").read_text(encoding="utf-8").splitlines()
    entries = map(json.loads, lines)
    return [ThingName(entry["name"], entry["imagenet"], frozenset(entry["photos"])) for entry in entries]


def _find(package: str, path: str) -> Path:
    """A file inside an installed package, which is not imported for it."""
    spec = util.find_spec(package)
    folder = Path(spec.origin).parent if spec is not None and spec.origin else None
    if folder is None or not (folder / path).is_file():
        raise GalleryError(f"{path} of the package {package} is not installed: pip install 'diptych[gallery]'")
    return folder / path
