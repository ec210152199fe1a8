"""What a teacher says of photos, and how a student's layers are brought to say the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from shared.models.image_tower import ImageTower
from training import kept, photos
from training.objective import Objective

_RIDGE = 0.1


@torch.inference_mode()
def taught(
    tower: ImageTower, pixels: photos.Pixels, cache: Path, device: torch.device, console: Console
) -> npt.NDArray[Any]:
    """The unit ``vector`` (D,) and the ``tokens`` (N, d) of each photo by the teacher, with all its looks.

    What its classifier names is left out, here and from now on: the student's own names things in its place.
    """
    if tower.config.classes:
        tower.class_weight.zero_()

    def say(rows: slice) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        grid, feature = tower.look(photos.to_tensor(pixels[rows], device))
        return tower.embed(feature).cpu().numpy(), tower.tokens(grid).cpu().numpy()

    def fill(array: npt.NDArray[Any]) -> None:
        for start in track(range(0, len(pixels), 32), "photos through the teacher", console=console):
            rows = slice(start, start + 32)
            array["vector"][rows], array["tokens"][rows] = say(rows)

    vector, tokens = (part.shape[1:] for part in say(slice(1)))
    kind = np.dtype([("vector", np.float32, vector), ("tokens", np.float16, tokens)])
    key = [photos.sample(pixels), kept.digest([tower]), device.type]
    return kept.array(cache, "taught", key, (len(pixels),), kind, fill)


@torch.no_grad()
def solve(layer: nn.Linear, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Ridge regression: the layer that brings inputs (n, C) nearest to outputs (n, D), over all ``pairs`` of them."""
    gram: Tensor | float = 0.0
    cross: Tensor | float = 0.0
    for inputs, outputs in pairs:
        padded = F.pad(inputs, (0, 1), value=1.0)
        gram, cross = gram + (padded.T @ padded).double(), cross + (padded.T @ outputs).double()
    assert isinstance(gram, Tensor)
    variance = gram.diagonal()[:-1]
    variance += _RIDGE * variance.mean()
    weight = torch.linalg.solve(gram, cross)
    layer.weight.copy_(weight[:-1].T)
    layer.bias.copy_(weight[-1])


def fit_projection(tower: ImageTower, views: Sequence[Tensor], target: Tensor) -> None:
    """Have the student say ``target`` (photos, D) of mean features (photos, C), in each of the ``views``."""
    tower.standardise(views[0])
    solve(tower.projection, (((view - tower.feature_mean) / tower.feature_std, target) for view in views))


def fit_tokens(objective: Objective, seen: photos.Seen, taught: npt.NDArray[np.float16], console: Console) -> None:
    """Have the student's tokens say what the teacher's ``taught`` (photos, N, d) say at the same places."""
    normalise, project = objective.towers.image.token_projection
    assert isinstance(project, nn.Linear)
    side, places = objective.towers.image.side, round(taught.shape[1] ** 0.5)

    def pairs() -> Iterable[tuple[Tensor, Tensor]]:
        parts = np.array_split(np.arange(len(taught)), -(-len(taught) // 100))
        for rows in track(parts, "tokens", console=console):
            tokens = photos.to_tensor(taught[rows], seen.device).float().transpose(1, 2)  # (B, d, N)
            there = F.adaptive_avg_pool2d(tokens.reshape(*tokens.shape[:2], places, places), side)  # (B, d, side, side)
            grid = normalise(objective.grid(seen.view(rows, 0)).float())
            yield grid.flatten(0, 1), there.flatten(2).transpose(1, 2).flatten(0, 1)

    solve(project, pairs())
