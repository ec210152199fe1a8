"""Other model artifacts made from one: exporting anew takes much longer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from shared.artifacts import fingerprint, hash_files, write_manifest
from tests.support.artifacts import model_manifest


def retrained(model: Path, target: Path, version: str) -> Path:
    """Another model of the same architecture: it has learnt other vectors for its words.

    Written into the weights file in place, to which the graphs point by offset.
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
    return described(target, version=version)


def without_reranker(model: Path, target: Path, version: str) -> Path:
    """The towers alone."""
    shutil.copytree(model, target)
    for file in target.glob("reranker.*"):
        file.unlink()
    config = {**model_manifest(target).config, "reranker": None}
    return described(target, version=version, has_reranker=False, config=config)


def described(directory: Path, **changes: object) -> Path:
    """Bring the manifest up to date with the files."""
    manifest = model_manifest(directory)
    facts = {"fingerprint": fingerprint(directory, manifest), "files": hash_files(directory), **changes}
    write_manifest(directory, manifest.model_copy(update=facts))
    return directory
