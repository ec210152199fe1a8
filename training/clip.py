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
from training.data import layouts
from training.distributed import World, world
from training.dual import recalls
from training.losses import info_nce
from training.trainer import Batch, Metrics, Schedule, Trainer, parameter_groups, quality


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
    data, dev = layouts.load(options.data, "train"), layouts.load(options.data, "dev")
    if min(options.batch_size, len(data)) < max(2, peers.size):
        raise ValueError(
            f"a batch of {min(options.batch_size, len(data))} photos is too small for {peers.size} processes: each "
            "needs one, and InfoNCE needs two in all"
        )
    if peers.leads:
        console.print(f"train: {data.describe()}\ndev:   {dev.describe()}", highlight=False)
        options.out.mkdir(parents=True, exist_ok=True)
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
    objective = _Objective(towers).to(peers.device).eval()

    def loss(model: nn.Module, batch: Batch, rng: np.random.Generator) -> Tensor:
        rows = np.asarray(batch)
        chosen = captions.draw(rows, options.captions_per_image, rng)  # (B, C)
        flat = chosen.reshape(-1)
        ids, mask = captions.batch(flat, peers.device)
        pixels = seen.draw(rows, np.asarray(captions.sided[chosen].any(axis=1)), rng)
        images, texts, scale = model(pixels, ids, mask)
        return info_nce(
            peers.gather(images),
            peers.gather(texts),
            peers.gather(torch.from_numpy(rows).to(peers.device)),
            peers.gather(torch.from_numpy(captions.image[flat]).to(peers.device)),
            scale,
        )

    def evaluate() -> Metrics:
        return recalls(objective.vectors_of(dev_seen, dev_captions).similarity, dev_captions.image)

    if options.epochs:
        groups = parameter_groups(objective, options.lr, options.weight_decay)
        schedule = Schedule(options.epochs, options.warmup, amp=peers.amp(options.amp), seed=options.seed)
        identity = {k: str(v) for k, v in vars(options).items() if k not in ("out", "device")}
        trainer = Trainer(objective, groups, schedule, peers, options.out, identity, console)
        trainer.fit(peers.batches(len(data), options.batch_size, options.seed), loss, evaluate, quality)
    known, rng = objective.vectors_of(seen, captions), np.random.default_rng(options.seed)
    heads.fill_banks(towers, Vectors(*(side[rng.permutation(len(side))] for side in (known.images, known.texts))))
    best = recalls(objective.vectors_of(dev_seen, dev_captions).public(towers).similarity, dev_captions.image)
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
    def vectors_of(self, seen: photos.Seen, captions: Captions) -> Vectors:
        """A whole split, photos as they are."""
        device = self.towers.log_scale.device
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
