"""A collection of Flickr8k's shape that needs no data set: random vectors and tokens, made captions, made photos."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.questions import caption, unit_vectors
from shared.artifacts import ArtifactStore, ModelManifest, Ref
from shared.collections import IndexBuilder, Item, Photo
from shared.engines import Engine
from shared.engines.images import pixels
from shared.tokens import TokenFeatures

CAPTIONS = 5  # of each photo, as in Flickr8k
_AT_ONCE = 500
_PHOTOS = 64


def photos(n: int = _PHOTOS) -> list[bytes]:
    """``n`` different JPEGs of 500 x 375 with broad shapes and grain, 50 to 100 KB each, as Flickr8k's originals."""
    return [_photo(number) for number in range(n)]


def _photo(number: int) -> bytes:
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((500, 375), Image.Resampling.BICUBIC)
    grain = rng.normal(0, 14, (375, 500, 3))
    file = io.BytesIO()
    Image.fromarray((np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
    return file.getvalue()


def token_counts(engine: Engine) -> tuple[int, int]:
    """How many tokens the model gives to a photo and to a caption of middling length."""
    seen = engine.embed_images(pixels(_photo(0), engine.manifest.preprocessing)[None])
    read = engine.embed_texts([caption(number) for number in range(32)])
    return len(seen.tokens[0]), int(np.median([len(item) for item in read.tokens]))


def token_features(rng: np.random.Generator, n: int, dim: int) -> TokenFeatures:
    """(n, dim) at random."""
    return TokenFeatures(rng.integers(-127, 128, (n, dim), np.int8), np.full(n, 0.01, np.float16))


def publish(store: ArtifactStore, model: Path, engine: Engine, work: Path, images: int) -> None:
    """Publish ``model`` and an index of ``images`` photos with :data:`CAPTIONS` captions each, and have them served."""
    manifest, counts = engine.manifest, token_counts(engine)
    store.publish(model)
    (work / "photos").mkdir(parents=True)
    with IndexBuilder(work / "building", manifest, work / "photos") as builder:
        for first in range(0, images, _AT_ONCE):
            builder.add(_items(manifest, *counts, range(first, min(first + _AT_ONCE, images))))
        sealed = builder.seal(work / "sealed", "benchmark", "1")
    store.publish(work / "sealed")
    store.activate(Ref.parse(manifest.ref), Ref.parse(sealed.ref))


def _items(model: ModelManifest, image_tokens: int, text_tokens: int, numbers: range) -> Iterator[Photo]:
    rng = np.random.default_rng(numbers.start)
    vectors = iter(unit_vectors(numbers.start, len(numbers) * (1 + CAPTIONS), model.embedding_dim))
    for number in numbers:
        image_id = hashlib.sha256(str(number).encode()).hexdigest()[:16]
        path = f"{number:06}.jpg"
        said = [caption(number * CAPTIONS + n) for n in range(CAPTIONS)]
        about = {"name": path, "path": path, "bytes": 75_000}
        item = Item(image_id, about, next(vectors), token_features(rng, image_tokens, model.token_dim))
        words = [
            Item(
                f"{image_id}-{n}",
                {"caption": text, "image_id": image_id},
                next(vectors),
                token_features(rng, text_tokens, model.token_dim),
            )
            for n, text in enumerate(said)
        ]
        yield Photo(path, 75_000, 0, said, image_id, item, words)
