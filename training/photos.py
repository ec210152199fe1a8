"""Photos as one array on disk, decoded once, by the very function that serves uploads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from shared.artifacts import ImagePreprocessing
from shared.engines import images
from shared.models import Towers
from training.data.captioned import CaptionedImages

Pixels = npt.NDArray[np.uint8]


def load(data: CaptionedImages, preprocessing: ImagePreprocessing, cache: Path, console: Console) -> Pixels:
    """uint8 (photos, size, size, 3), memory-mapped from ``cache``. An unreadable photo raises ``ImageError``."""
    facts = [(image.name, image.path.stat().st_size, image.path.stat().st_mtime_ns) for image in data.images]
    shape = (len(facts), preprocessing.size, preprocessing.size, 3)

    def fill(array: npt.NDArray[Any]) -> None:
        def decode(path: Path) -> Pixels:
            pixels: Pixels = images.pixels(path.read_bytes(), preprocessing)
            return pixels

        with ThreadPoolExecutor() as pool:  # Pillow decodes and resizes without the interpreter's lock
            rows = pool.map(decode, [image.path for image in data.images])
            for row, pixels in enumerate(track(rows, "decoding photos", len(data), console=console)):
                array[row] = pixels

    return _cached(cache, "pixels", [facts, preprocessing.model_dump(mode="json")], shape, np.dtype(np.uint8), fill)


def grid_features(
    towers: Towers, pixels: Pixels, cache: Path, device: torch.device, console: Console
) -> npt.NDArray[np.float16]:
    """What a frozen backbone sees: float16 (photos, 2, tokens, channels), each photo as it is and mirrored."""
    tower = towers.image
    shape = (len(pixels), 2, tower.side**2, tower.backbone.channels)
    sample = hashlib.sha256(np.ascontiguousarray(pixels[:: max(1, len(pixels) // 64)]).tobytes()).hexdigest()
    weights = hashlib.sha256()
    for value in tower.backbone.state_dict().values():
        weights.update(value.cpu().numpy().tobytes())
    config = tower.config.model_dump(mode="json", include={"library", "backbone", "size", "grid"})
    key = [len(pixels), sample, weights.hexdigest(), config]

    def fill(array: npt.NDArray[Any]) -> None:
        tower.to(device).eval()
        size = 64
        for start in track(range(0, len(pixels), size), "features of the frozen backbone", console=console):
            batch = to_tensor(pixels[start : start + size], device)
            for view, seen in enumerate((batch, batch.flip(2))):
                with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
                    array[start : start + len(batch), view] = tower.grid_features(seen).float().cpu().numpy()

    return _cached(cache, "grid", key, shape, np.dtype(np.float16), fill)


def to_tensor(rows: npt.NDArray[Any], device: torch.device) -> Tensor:
    own = rows if rows.flags.writeable else rows.copy()  # torch knows no read-only memory, as of a slice of a map
    return torch.from_numpy(np.ascontiguousarray(own)).to(device, non_blocking=True)


def _cached(
    cache: Path,
    name: str,
    key: Sequence[Any],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    fill: Callable[[npt.NDArray[Any]], None],
) -> npt.NDArray[Any]:
    """A memory map of what ``fill`` computes, computed at most once for a key and complete or absent."""
    digest = hashlib.sha256(json.dumps([name, key, shape, str(dtype)], sort_keys=True).encode()).hexdigest()[:16]
    path = cache / f"{name}-{digest}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".partial")
        array = np.lib.format.open_memmap(beside, "w+", dtype, shape)
        fill(array)
        array.flush()
        del array
        beside.replace(path)
    return np.lib.format.open_memmap(path, "r")
