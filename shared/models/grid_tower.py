"""What the image towers have in common: photos made ready, and a grid of features that becomes tokens."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.models.config import ClipImageConfig, ImageTowerConfig


class GridTower(nn.Module):
    """Pixels -> grid (B, N, C) -> tokens (B, N, d). A photo is looked at in ``looks`` ways."""

    mean: Tensor
    std: Tensor
    token_projection: nn.Sequential
    looks = 1

    def __init__(self, config: ImageTowerConfig | ClipImageConfig, grid: tuple[int, int]) -> None:
        """``grid`` is the backbone's, which is averaged down to ``config.grid`` at most."""
        super().__init__()
        self.config = config
        self.side = min(config.grid, *grid)
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(3, 1, 1), persistent=False)

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) -> float (B, 3, H, W)."""
        return (pixels.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std

    def part(self, whole: Tensor, look: int) -> Tensor:
        """What one look sees of normalised photos (B, 3, S, S), at their size: all."""
        return whole

    def tokens(self, grid: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, d)."""
        return cast(Tensor, self.token_projection(grid))

    def _flat(self, grid: Tensor) -> Tensor:
        """The backbone's grid (B, C, h, w) -> (B, N, C)."""
        if grid.shape[-1] > self.side:
            grid = F.adaptive_avg_pool2d(grid, self.side)
        return grid.flatten(2).transpose(1, 2)
