"""Artifacts of a few kilobytes, made without a model: random unit vectors stand for what an encoder would say."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from resource import RLIMIT_FSIZE, getrlimit, setrlimit

import numpy as np
import numpy.typing as npt

from shared.artifacts import (
    ImagePreprocessing,
    IndexManifest,
    ModelManifest,
    Tokenization,
    fingerprint,
    hash_files,
    write_manifest,
)
from shared.collections import IndexBuilder, Item, Photo
from shared.tokens import TokenFeatures
from tests.support.photos import draw

DIM, TOKEN_DIM = 8, 4


def write_model(
    directory: Path,
    *,
    name: str = "small",
    version: str = "1",
    weights: bytes = b"one",
    dim: int = DIM,
    token_dim: int = TOKEN_DIM,
) -> ModelManifest:
    """A folder that is a model as far as the store looks; other ``weights`` have another fingerprint."""
    directory.mkdir(parents=True)
    (directory / "towers.safetensors").write_bytes(weights)
    (directory / "tokenizer.json").write_text("{}")
    manifest = ModelManifest(
        name=name,
        version=version,
        fingerprint="",
        embedding_dim=dim,
        token_dim=token_dim,
        preprocessing=ImagePreprocessing(size=32, mean=(0, 0, 0), std=(1, 1, 1)),
        tokenization=Tokenization(max_length=16),
        config={"towers": {}},
        files=hash_files(directory),
    )
    manifest = manifest.model_copy(update={"fingerprint": fingerprint(directory, manifest)})
    write_manifest(directory, manifest)
    return manifest


def vectors(seed: int, n: int, dim: int = DIM) -> npt.NDArray[np.float32]:
    """Random unit vectors (n, dim)."""
    found = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


def item(item_id: str, **metadata: object) -> Item:
    """An item whose vector and tokens follow from its id."""
    seed = int.from_bytes(hashlib.sha256(item_id.encode()).digest()[:4], "big")
    tokens = np.random.default_rng(seed).normal(size=(3, TOKEN_DIM))
    return Item(item_id, dict(metadata), vectors(seed, 1)[0], TokenFeatures.quantise(tokens))


def photo(root: Path, path: str, captions: Sequence[str] = ()) -> Photo:
    """What an index build records of the file ``root / path``."""
    file = root / path
    data, facts = file.read_bytes(), file.stat()
    image_id = hashlib.sha256(data).hexdigest()[:16]
    return Photo(
        path,
        facts.st_size,
        facts.st_mtime_ns,
        captions,
        image_id,
        item(image_id, name=file.name, path=path, bytes=facts.st_size),
        [item(f"{image_id}-{n}", caption=caption, image_id=image_id) for n, caption in enumerate(captions)],
    )


def write_photos(root: Path, n: int) -> list[str]:
    """``n`` different photos, ``0.png`` and so on."""
    root.mkdir(parents=True, exist_ok=True)
    names = [f"{number}.png" for number in range(n)]
    for number, name in enumerate(names):
        draw("ball", "red", "blue", (20 + number, 20)).save(root / name)
    return names


def write_index(
    work: Path, target: Path, root: Path, model: ModelManifest, *, name: str = "photos", version: str = "1"
) -> IndexManifest:
    """An index of all the photos under ``root``, each with two captions."""
    with IndexBuilder(work, model, root) as builder:
        names = sorted(path.name for path in root.iterdir())
        builder.add(photo(root, path, [f"{path} as it is", f"also {path}"]) for path in names)
        return builder.seal(target, name, version)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Writing past ``size`` bytes of a file fails, as it does on a full disk."""
    soft, hard = getrlimit(RLIMIT_FSIZE)
    setrlimit(RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        setrlimit(RLIMIT_FSIZE, (soft, hard))
