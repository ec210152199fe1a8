"""What the dual encoder's job trains, and what a split is to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from shared.models import Towers
from training import photos
from training.captions import Captions, map_by_length

Rows = npt.NDArray[np.int64]
_QUIET = Console(quiet=True)


@dataclass
class Split:
    """Photos and captions as the trained parts take them. ``means`` (captions, W) over each caption's words are there
    while the text encoder does not change."""

    seen: photos.Seen
    captions: Captions
    means: Tensor | None = None

    def words(self, captions: npt.NDArray[Any], device: torch.device) -> tuple[Tensor, ...]:
        """What :class:`Objective` reads of these captions."""
        return self.captions.batch(captions, device) if self.means is None else (self.means[captions],)


class Objective(nn.Module):
    """What runs in one step on one process, so that DDP sees a single forward. Of the backbone, ``trained`` runs."""

    def __init__(self, towers: Towers, trained: Sequence[nn.Module]) -> None:
        super().__init__()
        self.towers = towers
        self._trained = tuple(trained)

    def forward(self, seen: Tensor, *words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``words`` are ids and mask (B', T), or the mean over them (B', W) -> image vectors (B, D), text vectors
        (B', D), the inverse temperature."""
        feature = self.grid(seen).mean(dim=1)
        texts = self.towers.text.embed(words[0] if len(words) == 1 else self.texts(*words))
        return self.towers.image.embed(feature), texts, self.towers.log_scale.exp().clamp(max=100)

    def grid(self, seen: Tensor) -> Tensor:
        """Maps (B, C', h, w) -> (B, N, C)."""
        return self.towers.image.upper(seen, self._trained)

    def texts(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Ids and mask (B, T) -> the mean over words (B, W)."""
        tower = self.towers.text

        def mean(rows: Tensor, longest: int) -> Tensor:
            cut = mask[rows, :longest]
            return tower.mean(tower.hidden(ids[rows, :longest], cut), cut)

        return map_by_length(mean, mask, 64)

    @torch.no_grad()
    def features(self, seen: photos.Seen, view: int, console: Console, rows: Rows | None = None) -> Tensor:
        """Mean features (photos, C) of one view of a whole split, or of some ``rows`` of it."""
        every = np.arange(len(seen.pixels)) if rows is None else rows
        parts = np.array_split(every, -(-len(every) // 100))
        shown = track(parts, f"view {view}: photos", console=console, transient=True)
        return torch.cat([self.grid(seen.view(part, view)).float().mean(dim=1) for part in shown])

    @torch.no_grad()
    def means(self, captions: Captions, console: Console, rows: Rows | None = None) -> Tensor:
        """Means over words (captions, W) of a whole split, or of some ``rows`` of it."""
        device, every = next(self.parameters()).device, np.arange(len(captions.texts)) if rows is None else rows
        parts = np.array_split(every, -(-len(every) // 320))
        shown = track(parts, "captions", console=console, transient=True)
        return torch.cat([self.texts(*captions.batch(part, device)).float() for part in shown])

    def read(self, split: Split, images: Rows | None = None, texts: Rows | None = None) -> tuple[Tensor, Tensor]:
        """Mean features (I, C) of a split's photos, over those looks that are kept, and means over words (T, W)."""
        looks = torch.stack([self.features(split.seen, view, _QUIET, images) for view in split.seen.looks])
        if split.means is None:
            return looks.mean(dim=0), self.means(split.captions, _QUIET, texts)
        return looks.mean(dim=0), split.means if texts is None else split.means[texts]

    def train(self, mode: bool = True) -> Objective:
        """Batch normalisation keeps ImageNet's statistics: batches of a small data set only blur them."""
        super().train(mode)
        self.towers.image.backbone.eval()
        return self
