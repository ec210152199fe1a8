"""Fine-tune a CLIP-class joint encoder with InfoNCE, the epoch chosen on dev; or take it as it is, with no epochs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from shared.artifacts import ImagePreprocessing
from shared.models import ClipTowers, Diptych
from training import heads, photos, pretrained_clip
from training.captions import Captions, map_by_length
from training.checkpoint import Checkpoint, describe
from training.classes import Vectors
from training.distributed import World, world
from training.dual import recalls
from training.objective import Split, begin, contrastive
from training.trainer import Metrics, Schedule, Trainer, identity, parameter_groups, quality


@dataclass(frozen=True)
class ClipOptions:
    """``model`` and ``weights`` are those of :func:`training.pretrained_clip.load`. All of both towers is trained. The
    finished model judges hubness by ``bank`` vectors of training data."""

    data: Path
    out: Path
    model: str
    weights: str | None = None
    epochs: int = 3
    batch_size: int = 128
    lr: float = 1e-5
    token_dim: int = 128
    device: str = "auto"
    bank: int = 3000
    captions_per_image: int = 1
    weight_decay: float = 0.1
    warmup: int = 50
    seed: int = 0
    amp: bool | None = None


def train(options: ClipOptions, console: Console) -> Metrics:
    """Run the job; leave in ``out`` what the dual encoder's job leaves, for a reranker to be added or to export."""
    with world(options.device) as peers:
        return _train(options, peers, console)


def _train(options: ClipOptions, peers: World, console: Console) -> Metrics:
    data, dev = begin(options.data, options.out, options.batch_size, peers, console)
    bank = min(options.bank, len(data))
    towers, tokenizer = pretrained_clip.load(options.model, options.weights, token_dim=options.token_dim, bank=bank)
    image = towers.config.image
    preprocessing = ImagePreprocessing(size=image.size, mean=image.mean, std=image.std)
    cache = options.out / "cache" if peers.size == 1 else options.out / f"cache-{peers.rank}"
    seen, dev_seen = (
        photos.Seen.of(towers, [], photos.load(split, preprocessing, cache, console), 1, cache, peers.device, console)
        for split in (data, dev)
    )
    captions, dev_captions = (Captions.of(split, tokenizer, towers.config.text.max_length) for split in (data, dev))
    known, asked = Split(seen, captions), Split(dev_seen, dev_captions)
    objective = _Objective(towers).to(peers.device).eval()

    def evaluate() -> Metrics:
        return recalls(objective.vectors_of(asked).similarity, asked.captions.image)

    if options.epochs:
        groups = parameter_groups(objective, options.lr, options.weight_decay)
        schedule = Schedule(options.epochs, options.warmup, amp=peers.amp(options.amp), seed=options.seed)
        trainer = Trainer(objective, groups, schedule, peers, options.out, identity(options), console)
        batches = peers.batches(len(data), options.batch_size, options.seed)
        trainer.fit(batches, contrastive(known, options.captions_per_image, peers), evaluate, quality)
    learnt, rng = objective.vectors_of(known), np.random.default_rng(options.seed)
    heads.fill_banks(towers, Vectors(*(side[rng.permutation(len(side))] for side in (learnt.images, learnt.texts))))
    best = recalls(objective.vectors_of(asked).public(towers).similarity, asked.captions.image)
    if peers.leads:
        finished = Checkpoint(Diptych(towers.cpu()), tokenizer)
        finished.metrics["dual"] = best
        source = {"model": pretrained_clip.named(options.model), "weights": pretrained_clip.named(options.weights)}
        # What `diptych train cross` asks of a dual encoder: how many views of each photo to learn from, and of what.
        finished.training["dual"] = describe(options) | source | {"views": 2, "train_blocks": -1}
        finished.save(options.out)
        console.print(f"on dev: {best}\nwritten to {options.out}", highlight=False)
    return best


class _Objective(nn.Module):
    """What runs in one step on one process, so that DDP sees a single forward."""

    def __init__(self, towers: ClipTowers) -> None:
        super().__init__()
        self.towers = towers
        for part in (towers.image.token_projection, towers.text.token_projection):
            part.requires_grad_(False)

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised pixels (B, 3, S, S), ids and mask (B', T) -> image vectors (B, D), text vectors (B', D), the
        inverse temperature."""
        return self.towers.image.see(pixels)[1], self.texts(ids, mask), self.towers.log_scale.exp().clamp(max=100)

    def texts(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Ids and mask (B, T) -> unit vectors (B, D)."""
        return map_by_length(
            lambda rows, longest: self.towers.text.read(ids[rows, :longest], mask[rows, :longest])[1], mask, 64
        )

    @torch.no_grad()
    def vectors_of(self, split: Split) -> Vectors:
        """A whole split, photos as they are."""
        seen, captions, device = split.seen, split.captions, self.towers.log_scale.device
        images = [
            self.towers.image.see(seen.view(part, 0))[1]
            for part in np.array_split(np.arange(len(seen.pixels)), -(-len(seen.pixels) // 64))
        ]
        numbers = np.arange(len(captions.texts))
        texts = [self.texts(*captions.batch(part, device)) for part in np.array_split(numbers, -(-len(numbers) // 320))]
        return Vectors(torch.cat(images), torch.cat(texts))

    def train(self, mode: bool = True) -> _Objective:
        """CLIP trains without dropout, and batch normalisation keeps the statistics of far more photos than these."""
        super().train(False)
        return self
