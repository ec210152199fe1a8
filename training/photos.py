"""Photos as one array on disk, decoded once, by the very function that serves uploads."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torchvision.transforms.v2.functional import resized_crop

from shared.artifacts import ImagePreprocessing
from shared.engines import images
from shared.models import ClipTowers, DualEncoder, GridTower
from training import kept
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

    return kept.array(cache, "pixels", [facts, preprocessing.model_dump(mode="json")], shape, np.uint8, fill)


def divide(towers: DualEncoder, train_blocks: int) -> tuple[Sequence[nn.Module], Sequence[nn.Module]]:
    """The frozen and the trained blocks of the backbone; -1 trains all. CLIP's is one piece."""
    if train_blocks < 0 or isinstance(towers, ClipTowers):
        return [], [towers.image.backbone]
    return towers.image.backbone.divide(train_blocks)


@dataclass(frozen=True)
class Seen:
    """Photos as the trained blocks of the backbone take them: ``maps`` float16 (photos, views, h, w, C) of the frozen
    blocks, or normalised pixels where none is frozen.

    View 2n is look n of the finished model, view 2n + 1 the same look at the mirrored photo.
    """

    tower: GridTower
    pixels: Pixels
    maps: npt.NDArray[np.float16] | None
    device: torch.device

    @staticmethod
    def of(
        towers: DualEncoder,
        frozen: Sequence[nn.Module],
        pixels: Pixels,
        views: int,
        cache: Path,
        device: torch.device,
        console: Console,
    ) -> Seen:
        """What the ``frozen`` blocks see in each view is computed at most once and kept in ``cache``."""
        tower = towers.image.to(device).eval()
        maps = _maps(tower, frozen, pixels, views, cache, device, console) if frozen else None
        return Seen(tower, pixels, maps, device)

    def draw(self, rows: npt.NDArray[Any], sided: npt.NDArray[np.bool_], rng: np.random.Generator) -> Tensor:
        """A random view of each photo, not a mirrored one where ``sided``: (B, C, h, w)."""
        if self.maps is None:
            batch = crop(to_tensor(self.pixels[rows], self.device), rng)
            mirrored = torch.from_numpy((rng.random(len(rows)) < 0.5) & ~sided).to(self.device)
            return self.tower.normalise(torch.where(mirrored[:, None, None, None], batch.flip(2), batch))
        view = rng.integers(self.maps.shape[1], size=len(rows))
        view[sided] -= view[sided] % 2
        return _from_maps(self.maps[rows, view], self.device)

    def view(self, rows: npt.NDArray[Any], view: int) -> Tensor:
        """One view of each photo of these rows, (B, C, h, w)."""
        if self.maps is not None:
            return _from_maps(self.maps[rows, view], self.device)
        batch = to_tensor(self.pixels[rows], self.device)
        return _view(self.tower, batch, view)

    @property
    def looks(self) -> list[int]:
        """The views that are the finished model's own looks, as far as they are kept: all where pixels are."""
        wanted = range(0, 2 * self.tower.looks, 2)
        return [view for view in wanted if self.maps is None or view < self.maps.shape[1]]


def _maps(
    tower: GridTower,
    frozen: Sequence[nn.Module],
    pixels: Pixels,
    views: int,
    cache: Path,
    device: torch.device,
    console: Console,
) -> npt.NDArray[np.float16]:
    config = tower.config.model_dump(mode="json", include={"library", "backbone", "size"})
    key = [len(pixels), sample(pixels), kept.digest(frozen), len(frozen), config, device.type]

    def run(maps: Tensor) -> npt.NDArray[np.float16]:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            for block in frozen:
                maps = block(maps)
        seen: npt.NDArray[np.float16] = maps.permute(0, 2, 3, 1).half().cpu().numpy()
        return seen

    def fill(array: npt.NDArray[Any]) -> None:
        size = 32
        for start in track(range(0, len(pixels), size), "photos through the frozen blocks", console=console):
            batch = to_tensor(pixels[start : start + size], device)
            for view in range(views):
                array[start : start + len(batch), view] = run(_view(tower, batch, view))

    shape = (len(pixels), views, *run(_view(tower, to_tensor(pixels[:1], device), 0)).shape[1:])
    return kept.array(cache, "maps", key, shape, np.float16, fill)


def sample(pixels: Pixels) -> str:
    """A digest of some of the photos, by which to tell them from others."""
    return hashlib.sha256(np.ascontiguousarray(pixels[:: max(1, len(pixels) // 64)]).tobytes()).hexdigest()


def _from_maps(rows: npt.NDArray[np.float16], device: torch.device) -> Tensor:
    """(B, h, w, C) -> float32 (B, C, h, w), channels last in memory."""
    return to_tensor(rows, device).float().permute(0, 3, 1, 2)


def _view(tower: GridTower, batch: Tensor, view: int) -> Tensor:
    """uint8 (B, S, S, 3) -> normalised (B, 3, S, S)."""
    look, mirrored = divmod(view, 2)
    return tower.part(tower.normalise(batch.flip(2) if mirrored else batch), look)


def crop(batch: Tensor, rng: np.random.Generator) -> Tensor:
    """Each photo of uint8 (B, H, W, 3) cut to a random part of 55 to 100 % of it, at its old size."""
    seen = []
    for photo in batch.permute(0, 3, 1, 2):
        area, aspect = rng.uniform(0.55, 1), math.exp(rng.uniform(-0.16, 0.16))
        size = photo.shape[-1]
        height, width = (round(size * min(1.0, math.sqrt(area * a))) for a in (aspect, 1 / aspect))
        top, left = int(rng.integers(size - height + 1)), int(rng.integers(size - width + 1))
        seen.append(resized_crop(photo, top, left, height, width, [size, size], antialias=True))
    return torch.stack(seen).permute(0, 2, 3, 1)


def to_tensor(rows: npt.NDArray[Any], device: torch.device) -> Tensor:
    own = rows if rows.flags.writeable else rows.copy()  # torch knows no read-only memory, as of a slice of a map
    return torch.from_numpy(np.ascontiguousarray(own)).to(device, non_blocking=True)
