"""An artifact store with two small models, an index of each over the same photos, and the first pair current."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image
from rich.console import Console

from shared.artifacts import (
    ArtifactStore,
    ModelManifest,
    Ref,
    fingerprint,
    hash_files,
    read_manifest,
    write_manifest,
)
from tests.support.photos import COLOURS, SHAPES, draw
from training import index_build

# Captions that several photos share: a search answers with each text once.
SHARED = ("a photo", "taken on a tuesday")
MODELS = (Ref("tiny", "1"), Ref("tiny", "2"))
# The first model's towers alone.
WITHOUT_RERANKER = Ref("tiny", "3")


@dataclass(frozen=True)
class Prepared:
    """``indexes[i]`` was built by ``MODELS[i]``, ``captionless`` has one photo; ``captions`` are the distinct texts."""

    store: ArtifactStore
    photos: Path
    indexes: tuple[Ref, Ref]
    captionless: Ref
    captions: frozenset[str]


def prepare(directory: Path, model: Path) -> Prepared:
    """``model`` is the artifact that becomes tiny/1; the others are made from it."""
    photos = directory / "photos"
    captions = _write_photos(photos)
    (directory / "one").mkdir()
    shutil.copy(photos / "coffee.png", directory / "one")
    store = ArtifactStore(directory / "store")
    store.publish(model)
    store.publish(_retrained(model, directory / "retrained"))
    store.publish(_without_reranker(model, directory / "without"))
    first, second = (_index(store, ref, photos, directory / f"work-{ref.version}") for ref in MODELS)
    captionless = _index(store, MODELS[0], directory / "one", directory / "work-one")
    store.activate(MODELS[0], first)
    return Prepared(store, photos, (first, second), captionless, captions)


def _index(store: ArtifactStore, model: Ref, photos: Path, work: Path) -> Ref:
    source = index_build.photos_in(photos)
    return index_build.build(store, model, source, work, name=photos.name, activate=False, console=Console(quiet=True))


def _retrained(model: Path, target: Path) -> Path:
    """Another model of the same architecture: it has learnt other vectors for its words.

    Written into the weights file in place, to which the graphs point by offset; exporting anew would take much longer.
    """
    shutil.copytree(model, target)
    weights = target / "towers.safetensors"
    data = bytearray(weights.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    entry = json.loads(data[8:start])["text.encoder.words.weight"]
    rows, columns = entry["shape"]
    first, last = (start + offset for offset in entry["data_offsets"])
    words = np.frombuffer(data[first:last], np.float16).reshape(rows, columns)
    data[first:last] = words[::-1].tobytes()
    weights.write_bytes(data)
    return _describe(target, version="2")


def _without_reranker(model: Path, target: Path) -> Path:
    shutil.copytree(model, target)
    for file in target.glob("reranker.*"):
        file.unlink()
    return _describe(target, version="3", has_reranker=False)


def _describe(directory: Path, **changes: object) -> Path:
    """Bring the manifest up to date with the files."""
    manifest = read_manifest(directory)
    assert isinstance(manifest, ModelManifest)
    facts = {"fingerprint": fingerprint(directory, manifest), "files": hash_files(directory), **changes}
    write_manifest(directory, manifest.model_copy(update=facts))
    return directory


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
