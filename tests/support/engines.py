"""The engines that an index can be in, the same to whoever opens it. Milvus is Milvus Lite, one for a whole session."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from shared.artifacts import IndexManifest, ModelManifest, read_manifest, write_manifest
from shared.artifacts.manifest import MilvusEngine
from shared.collections import IndexDirectory
from shared.collections.library import Put
from shared.collections.migration import copy, in_files, in_milvus, verify
from shared.settings import MilvusSettings
from tests.support.small import item


def move_to_milvus(index: Path, uri: str) -> IndexManifest:
    """Move the items of an embedded index at ``index`` into Milvus."""
    manifest = read_manifest(index)
    assert isinstance(manifest, IndexManifest)
    prefix = "t" + hashlib.sha256(str(index).encode()).hexdigest()[:16]
    moved = manifest.model_copy(update={"engine": MilvusEngine(uri=uri, prefix=prefix), "files": {}})
    source, target = in_files(index, manifest), in_milvus(moved, MilvusSettings(), writable=True)
    copy(source, target, manifest.collections)
    verify(source, target, manifest.collections)
    (index / "items.sqlite").unlink()
    write_manifest(index, moved)
    return moved


def all_ids(index: IndexDirectory, collection: str = "images") -> list[str]:
    """Whatever can be found."""
    queries = np.eye(1, index.manifest.embedding_dim, dtype=np.float32)
    return sorted(index.collection(collection).search(queries, 100_000)[1][0])


def put(model: ModelManifest, photo: str, content: str, captions: int = 1) -> Put:
    made = {
        "images": [item(f"{photo} {content}", name=photo)],
        "captions": [item(f"{photo} {content} {n}", caption=content, image_id=photo) for n in range(captions)],
    }
    named = {"images": [photo], "captions": [f"{photo}-{n}" for n in range(captions)]}
    items = {
        collection: [
            type(one)(name, one.metadata, one.vector, one.tokens)
            for name, one in zip(named[collection], some, strict=True)
        ]
        for collection, some in made.items()
    }
    return Put(photo, content.encode(), {"name": photo}, model.fingerprint, items)
