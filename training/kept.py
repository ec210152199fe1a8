"""Arrays that are computed at most once and kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn


def array(
    cache: Path,
    name: str,
    key: Sequence[Any],
    shape: tuple[int, ...],
    dtype: npt.DTypeLike,
    fill: Callable[[npt.NDArray[Any]], None],
) -> npt.NDArray[Any]:
    """A memory map of what ``fill`` writes, computed at most once for a key and complete or absent."""
    dtype = np.dtype(dtype)
    digest = hashlib.sha256(json.dumps([name, key, shape, str(dtype)], sort_keys=True).encode()).hexdigest()[:16]
    path = cache / f"{name}-{digest}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".partial")
        written = np.lib.format.open_memmap(beside, "w+", dtype, shape)
        fill(written)
        written.flush()
        del written
        beside.replace(path)
    return np.lib.format.open_memmap(path, "r")


def digest(modules: Sequence[nn.Module]) -> str:
    """Of all weights in them, in order."""
    weights = hashlib.sha256()
    for module in modules:
        for value in module.state_dict().values():
            weights.update(value.cpu().numpy().tobytes())
    return weights.hexdigest()
