"""Both projections fitted on frozen towers first: seconds of work, after which fine-tuning has a direction to go in
(Kumar et al., 2022, https://arxiv.org/abs/2202.10054)."""

from __future__ import annotations

import math

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from shared.models import DualEncoder, Towers
from training.captions import Captions
from training.classes import Vectors
from training.losses import info_nce

_BATCH = 500
_RATE = 3e-3
_DECAY = 0.2
_WARMUP = 20
_CAPTIONS = 2


def fit(
    towers: Towers, features: Tensor, means: Tensor, captions: Captions, epochs: int, seed: int, console: Console
) -> None:
    """Standardise the image tower's ``features`` (photos, views, C), views 0, 2, ... unmirrored, and train both
    projections and the temperature on them and on the text tower's ``means`` (captions, W)."""
    image, text = towers.image, towers.text
    image.standardise(features[:, 0])
    trained = [*image.projection.parameters(), *text.projection.parameters(), towers.log_scale]
    optimizer = torch.optim.AdamW(trained, lr=_RATE, weight_decay=_DECAY)
    steps = max(1, len(features) // _BATCH)
    was_training = towers.training
    towers.train()
    torch.manual_seed(seed)
    for step in track(range(epochs * steps), "heads on frozen towers", console=console):
        rng = np.random.default_rng([seed, step // steps])
        rows = np.array_split(rng.permutation(len(features)), steps)[step % steps]
        chosen = captions.draw(rows, _CAPTIONS, rng)
        flat = chosen.reshape(-1)
        view = rng.integers(features.shape[1], size=len(rows))
        sided = captions.sided[chosen].any(axis=1)
        view[sided] -= view[sided] % 2
        loss = info_nce(
            image.embed(features[rows, view]),
            text.embed(means[flat]),
            torch.from_numpy(rows).to(features.device),
            torch.from_numpy(captions.image[flat]).to(features.device),
            towers.log_scale.exp().clamp(max=100),
        )
        for group in optimizer.param_groups:
            group["lr"] = _RATE * min(1, (step + 1) / _WARMUP) * 0.5 * (1 + math.cos(math.pi * step / (epochs * steps)))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    towers.train(was_training)


@torch.no_grad()
def fill_banks(towers: DualEncoder, known: Vectors) -> None:
    """Judge hubness by the first vectors of ``known``, training data in any order, if the towers judge it at all."""
    if towers.image_hubness is None or towers.text_hubness is None:
        return
    size = towers.config.bank
    towers.image_hubness.fill(known.texts[:size], known.images)
    towers.text_hubness.fill(known.images[:size], known.texts)
