"""An artifact store with two small models, an index of each over the same photos, and the first pair current."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import skimage.data
from PIL import Image
from rich.console import Console

from shared.artifacts import ArtifactStore, Ref
from tests.support.artifacts import tiny_artifact
from tests.support.photos import COLOURS, SHAPES, draw
from training import index_build

# Captions that several photos share: a search answers with each text once.
SHARED = ("a photo", "taken on a tuesday")
MODELS = (Ref("tiny", "1"), Ref("tiny", "2"))


@dataclass(frozen=True)
class Prepared:
    """``indexes[i]`` was built by ``MODELS[i]``; ``captions`` are the distinct texts."""

    store: ArtifactStore
    photos: Path
    indexes: tuple[Ref, Ref]
    captions: frozenset[str]


def prepare(directory: Path) -> Prepared:
    photos = directory / "photos"
    captions = _write_photos(photos)
    store = ArtifactStore(directory / "store")
    indexes = []
    for seed, model in enumerate(MODELS):
        artifact = directory / f"model-{model.version}"
        tiny_artifact(artifact, seed=seed, name=model.name, version=model.version)
        store.publish(artifact)
        ref = index_build.build(
            store,
            model,
            index_build.photos_in(photos),
            directory / f"work-{model.version}",
            name="photos",
            activate=False,
            console=Console(quiet=True),
        )
        indexes.append(ref)
    store.activate(MODELS[0], indexes[0])
    return Prepared(store, photos, (indexes[0], indexes[1]), captions)


def _write_photos(folder: Path) -> frozenset[str]:
    """Drawn ones, and real ones from scikit-image's wheel, each with two captions of its own and two that all share."""
    folder.mkdir(parents=True)
    rows = []
    for shape in SHAPES:
        for colour, ground in zip(COLOURS, reversed(COLOURS), strict=True):
            name = f"{shape}-{colour}.jpg"
            draw(shape, colour, ground).save(folder / name, quality=90)
            rows.append((name, f"a {colour} {shape} on {ground}"))
    for name in ("astronaut", "coffee", "chelsea"):
        Image.fromarray(getattr(skimage.data, name)()).save(folder / f"{name}.png")
        rows.append((f"{name}.png", f"the {name}"))
    captions = {caption for name, own in rows for caption in (own, f"{name} as a file", *SHARED)}
    (folder / "captions.jsonl").write_text(
        "".join(
            json.dumps({"image": name, "captions": [own, f"{name} as a file", *SHARED]}) + "\n" for name, own in rows
        )
    )
    return frozenset(captions)
