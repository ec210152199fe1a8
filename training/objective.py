"""What jobs that train a dual encoder share, what a split is to them, and what the dual encoder's own trains."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from shared.models import Towers
from shared.models.text_tower import BertEncoder
from training import kept, photos
from training.captions import Captions, map_by_length
from training.data import layouts
from training.data.captioned import CaptionedImages
from training.distributed import World
from training.losses import info_nce
from training.trainer import Batch, Loss

Rows = npt.NDArray[np.int64]
Judge = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
_QUIET = Console(quiet=True)


def begin(
    root: Path, out: Path, batch_size: int, peers: World, console: Console
) -> tuple[CaptionedImages, CaptionedImages]:
    """Load and describe the train and dev splits; make the folder ``out``. Raises ValueError for too small a batch."""
    data, dev = layouts.load(root, "train"), layouts.load(root, "dev")
    if (size := min(batch_size, len(data))) < max(2, peers.size):
        raise ValueError(
            f"a batch of {size} photos is too small for {peers.size} processes: each needs one, and InfoNCE needs two "
            "in all"
        )
    if peers.leads:
        console.print(f"train: {data.describe()}\ndev:   {dev.describe()}", highlight=False)
        out.mkdir(parents=True, exist_ok=True)
    return data, dev


@dataclass
class Split:
    """Photos and captions as the trained parts take them. ``states`` float16 (captions, T, W) are there where the first
    layers of the text encoder are frozen, ``means`` (captions, W) over each caption's words where all of it is."""

    seen: photos.Seen
    captions: Captions
    states: npt.NDArray[np.float16] | None = None
    means: Tensor | None = None

    def words(self, captions: npt.NDArray[Any], device: torch.device) -> tuple[Tensor, ...]:
        """What a model reads of these captions."""
        if self.means is not None:
            return (self.means[captions],)
        ids, mask = self.captions.batch(captions, device)
        if self.states is None:
            return ids, mask
        return photos.to_tensor(self.states[captions, : mask.shape[1]], device).float(), mask


def contrastive(split: Split, captions_per_image: int, peers: World, judge: Judge = info_nce) -> Loss:
    """InfoNCE, or another loss of the same arguments, over all processes' photos of a step, a random view of each, and
    some captions of each."""

    def loss(model: nn.Module, batch: Batch, rng: np.random.Generator) -> Tensor:
        rows, captions = np.asarray(batch), split.captions
        chosen = captions.draw(rows, captions_per_image, rng)  # (B, C)
        flat = chosen.reshape(-1)
        seen = split.seen.draw(rows, np.asarray(captions.sided[chosen].any(axis=1)), rng)
        images, texts, scale = model(seen, *split.words(flat, peers.device))
        return judge(
            peers.gather(images.float()),
            peers.gather(texts.float()),
            peers.gather(torch.from_numpy(rows).to(peers.device)),
            peers.gather(torch.from_numpy(captions.image[flat]).to(peers.device)),
            scale,
        )

    return loss


class Objective(nn.Module):
    """What runs in one step on one process, so that DDP sees a single forward. Of the backbone, ``trained`` runs; of
    the text encoder its last ``layers`` do where its states before them are kept."""

    def __init__(self, towers: Towers, trained: Sequence[nn.Module], layers: int) -> None:
        super().__init__()
        self.towers = towers
        self._trained = tuple(trained)
        self._layers = layers

    def forward(self, seen: Tensor, *words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``words`` are those of :meth:`texts`, or the mean over them (B', W) -> image vectors (B, D), text vectors
        (B', D), the inverse temperature."""
        feature = self.grid(seen).mean(dim=1)
        texts = self.towers.text.embed(words[0] if len(words) == 1 else self.texts(*words))
        return self.towers.image.embed(feature), texts, self.towers.log_scale.exp().clamp(max=100)

    def grid(self, seen: Tensor) -> Tensor:
        """Maps (B, C', h, w) -> (B, N, C)."""
        return self.towers.image.upper(seen, self._trained)

    def texts(self, words: Tensor, mask: Tensor) -> Tensor:
        """Ids (B, T) or states before the trained layers (B, T, W), and a mask (B, T) -> the mean over words (B, W)."""
        tower = self.towers.text

        def mean(rows: Tensor, longest: int) -> Tensor:
            mine, cut = words[rows, :longest], mask[rows, :longest]
            encoder = tower.encoder
            if isinstance(encoder, BertEncoder) and mine.is_floating_point():
                return tower.mean(encoder.upper(mine, cut, self._layers), cut)
            return tower.mean(tower.hidden(mine, cut), cut)

        return map_by_length(mean, mask, 64)

    @torch.no_grad()
    def features(self, seen: photos.Seen, view: int, console: Console, rows: Rows | None = None) -> Tensor:
        """Mean features (photos, C) of one view of a whole split, or of some ``rows`` of it."""
        every = np.arange(len(seen.pixels)) if rows is None else rows
        parts = np.array_split(every, -(-len(every) // 100))
        shown = track(parts, f"view {view}: photos", console=console, transient=True)
        return torch.cat([self.grid(seen.view(part, view)).float().mean(dim=1) for part in shown])

    @torch.no_grad()
    def means(self, split: Split, console: Console, rows: Rows | None = None) -> Tensor:
        """Means over words (captions, W) of a whole split, or of some ``rows`` of it."""
        if split.means is not None:
            return split.means if rows is None else split.means[rows]
        device, every = self.towers.log_scale.device, np.arange(len(split.captions.texts)) if rows is None else rows
        parts = np.array_split(every, -(-len(every) // 320))
        shown = track(parts, "captions", console=console, transient=True)
        return torch.cat([self.texts(*split.words(part, device)).float() for part in shown])

    def states(self, captions: Captions, cache: Path, console: Console) -> npt.NDArray[np.float16]:
        """What the frozen layers of a BERT make of all captions (captions, T, W), kept in ``cache``."""
        encoder, device = cast(BertEncoder, self.towers.text.encoder), self.towers.log_scale.device

        @torch.inference_mode()
        def fill(array: npt.NDArray[Any]) -> None:
            order = captions.mask.sum(axis=1).argsort()
            parts = np.array_split(order, -(-len(order) // 128))
            for part in track(parts, "captions through the frozen layers", console=console):
                ids, mask = captions.batch(part, device)
                array[part, : ids.shape[1]] = encoder.lower(ids, mask, self._layers).half().cpu().numpy()

        key = [hashlib.sha256(captions.ids.tobytes()).hexdigest(), kept.digest([encoder]), self._layers, device.type]
        return kept.array(cache, "states", key, (*captions.ids.shape, encoder.width), np.float16, fill)

    def read(self, split: Split, images: Rows | None = None, texts: Rows | None = None) -> tuple[Tensor, Tensor]:
        """Mean features (I, C) of a split's photos, over those looks that are kept, and means over words (T, W)."""
        looks = torch.stack([self.features(split.seen, view, _QUIET, images) for view in split.seen.looks])
        return looks.mean(dim=0), self.means(split, _QUIET, texts)

    def train(self, mode: bool = True) -> Objective:
        """Batch normalisation keeps ImageNet's statistics: batches of a small data set only blur them."""
        super().train(mode)
        self.towers.image.backbone.eval()
        return self
