"""Train the dual encoder: two towers, InfoNCE, the epoch chosen on dev."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from tokenizers import Tokenizer
from torch import Tensor, nn

from shared.artifacts import ImagePreprocessing
from shared.models import Diptych, ImageTowerConfig, TextTowerConfig, Towers, TowersConfig
from training import classes, heads, photos, pretrained
from training.captions import Captions, map_by_length
from training.checkpoint import Checkpoint, describe
from training.data import layouts, vocabulary
from training.data.captioned import CaptionedImages
from training.distributed import World, world
from training.losses import info_nce
from training.metrics import retrieval_metrics
from training.trainer import LAST, Batch, Metrics, Schedule, Trainer


@dataclass(frozen=True)
class DualOptions:
    """The projections are first fitted on the frozen towers for ``head_epochs``. Then ``lr`` is their peak rate, and
    the pretrained towers take ``*_lr_scale`` of it.

    Of the backbone, the last ``train_blocks`` blocks are trained, -1 all of them. What the frozen ones see of each
    photo, as it is, mirrored and cropped in ``views`` ways, is computed once and kept. The finished model makes its
    vector from ``looks`` at a photo, and judges hubness by ``bank`` vectors of training data.
    """

    data: Path
    out: Path
    head_epochs: int = 40
    epochs: int = 4
    batch_size: int = 256
    lr: float = 5e-4
    embed_dim: int = 512
    token_dim: int = 128
    device: str = "auto"
    text: str = "bert"
    text_weights: str = "package"
    text_lr_scale: float = 0.2
    image_library: str = "timm"
    image_backbone: str = "tf_efficientnet_lite2"
    image_weights: str = "package"
    image_lr_scale: float = 0.1
    train_blocks: int = 0
    views: int = 2
    image_size: int = 224
    looks: int = 3
    bank: int = 3000
    captions_per_image: int = 2
    weight_decay: float = 0.2
    warmup: int = 20
    dropout: float = 0.1
    image_dropout: float = 0.4
    text_dropout: float = 0.2
    seed: int = 0
    amp: bool | None = None


def train(options: DualOptions, console: Console) -> Metrics:
    """Run the job; leave a checkpoint of the towers, the log and what is needed to resume in ``out``."""
    with world(options.device) as peers:
        return _train(options, peers, console)


def _train(options: DualOptions, peers: World, console: Console) -> Metrics:
    data, dev = layouts.load(options.data, "train"), layouts.load(options.data, "dev")
    if min(options.batch_size, len(data)) < max(2, peers.size):
        raise ValueError(
            f"a batch of {min(options.batch_size, len(data))} photos is too small for {peers.size} processes: each "
            "needs one, and InfoNCE needs two in all"
        )
    if peers.leads:
        console.print(f"train: {data.describe()}\ndev:   {dev.describe()}", highlight=False)
        options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    towers, tokenizer, words = _start(options, data)
    captions = Captions.of(data, tokenizer, towers.config.text.max_length)
    dev_captions = Captions.of(dev, tokenizer, towers.config.text.max_length)
    cache = options.out / "cache" if peers.size == 1 else options.out / f"cache-{peers.rank}"
    preprocessing = ImagePreprocessing(
        size=options.image_size, mean=towers.config.image.mean, std=towers.config.image.std
    )
    pixels = photos.load(data, preprocessing, cache, console)
    dev_pixels = photos.load(dev, preprocessing, cache, console)
    frozen, trained = photos.divide(towers, options.train_blocks)
    seen = photos.Seen.of(towers, frozen, pixels, options.views, cache, peers.device, console)
    dev_seen = photos.Seen.of(towers, frozen, dev_pixels, 1, cache, peers.device, console)
    objective = _Objective(towers, trained)
    if not (options.out / LAST).exists():
        _fit_heads(objective.to(peers.device).eval(), seen, captions, options, console)

    def loss(model: nn.Module, batch: Batch, rng: np.random.Generator) -> Tensor:
        rows = np.asarray(batch)
        chosen = captions.draw(rows, options.captions_per_image, rng)  # (B, C)
        flat = chosen.reshape(-1)
        ids, mask = captions.batch(flat, peers.device)
        image, text, scale = model(seen.draw(rows, np.asarray(captions.sided[chosen].any(axis=1)), rng), ids, mask)
        return info_nce(
            peers.gather(image.float()),
            peers.gather(text.float()),
            peers.gather(torch.from_numpy(rows).to(peers.device)),
            peers.gather(torch.from_numpy(captions.image[flat]).to(peers.device)),
            scale,
        )

    def batches(epoch: int) -> list[npt.NDArray[np.int64]]:
        order = np.random.default_rng([options.seed, epoch]).permutation(len(data))
        whole = min(options.batch_size, len(order)) // peers.size * peers.size  # each process the same number
        steps = len(order) // whole
        return [order[s * whole : (s + 1) * whole][peers.rank :: peers.size] for s in range(steps)]

    own = dev_captions.image

    def evaluate() -> Metrics:
        return recalls(classes.Vectors.of(towers, *objective.means_of(dev_seen, dev_captions)).similarity, own)

    trainer = Trainer(
        objective,
        _groups(objective, frozen, options),
        Schedule(options.epochs, options.warmup, amp=peers.amp(options.amp), seed=options.seed),
        peers,
        options.out,
        {k: str(v) for k, v in vars(options).items() if k not in ("out", "device")},
        console,
    )
    best = trainer.fit(batches, loss, evaluate, _quality)
    if peers.leads:
        known = objective.eval().means_of(seen, captions)
        dev_means = objective.means_of(dev_seen, dev_captions)

        def measure(finished: Towers) -> Metrics:
            heads.fill_banks(finished, classes.Vectors.of(finished, *known), options.seed)
            return recalls(classes.Vectors.of(finished, *dev_means).public(finished).similarity, own)

        classifier = pretrained.load_classifier(towers, options.image_weights)
        if classifier is not None:
            towers = classes.attach(towers, classifier, tokenizer, lambda named: _quality(measure(named)))
            console.print(f"what the backbone's classifier names counts {float(towers.image.class_weight):.1f}")
        best = measure(towers)
        finished = Checkpoint(Diptych(towers), tokenizer, words)
        finished.metrics["dual"] = best
        finished.training["dual"] = describe(options)
        finished.save(options.out)
        console.print(f"on dev, with one look at each photo: {best}\nwritten to {options.out}", highlight=False)
    return best


def _fit_heads(
    objective: _Objective, seen: photos.Seen, captions: Captions, options: DualOptions, console: Console
) -> None:
    features = torch.stack([objective.features(seen, view) for view in range(options.views)], dim=1)
    means = objective.means(captions)
    heads.fit(objective.towers, features, means, captions, options.head_epochs, options.seed, console)


def recalls(similarity: npt.NDArray[np.floating[Any]], caption_image: npt.NDArray[np.int64]) -> Metrics:
    """The figures watched while training, from (photos, captions) similarities."""
    metrics = retrieval_metrics(similarity, caption_image)
    ways = (("t2i", metrics.t2i), ("i2t", metrics.i2t))
    return {f"{way}_r{k}": value for way, m in ways for k, value in ((1, m.r1), (5, m.r5), (10, m.r10))}


def _quality(metrics: Metrics) -> float:
    """The sum of all recalls, by which epochs are compared."""
    return sum(metrics.values())


class _Objective(nn.Module):
    """What runs in one step on one process, so that DDP sees a single forward. Of the backbone, ``trained`` runs."""

    def __init__(self, towers: Towers, trained: Sequence[nn.Module]) -> None:
        super().__init__()
        self.towers = towers
        self._trained = tuple(trained)

    def forward(self, seen: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """-> image vectors (B, D), text vectors (B', D), the inverse temperature."""
        feature = self.grid(seen).mean(dim=1)
        texts = self.towers.text.embed(self.texts(ids, mask))
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
    def features(self, seen: photos.Seen, view: int) -> Tensor:
        """Mean features (photos, C) of one view of a whole split."""
        starts = range(0, len(seen.pixels), 100)
        return torch.cat([self.grid(seen.view(slice(s, s + 100), view)).float().mean(dim=1) for s in starts])

    @torch.no_grad()
    def means(self, captions: Captions) -> Tensor:
        """Means over words (captions, W) of a whole split."""
        device, parts = next(self.parameters()).device, []
        for start in range(0, len(captions.texts), 320):
            ids, mask = captions.batch(np.arange(start, min(start + 320, len(captions.texts))), device)
            parts.append(self.texts(ids, mask).float())
        return torch.cat(parts)

    def means_of(self, seen: photos.Seen, captions: Captions) -> tuple[Tensor, Tensor]:
        """Mean features of a split's photos as they are, and the means over words of its captions."""
        return self.features(seen, 0), self.means(captions)

    def train(self, mode: bool = True) -> _Objective:
        """Batch normalisation keeps ImageNet's statistics: batches of a small data set only blur them."""
        super().train(mode)
        self.towers.image.backbone.eval()
        return self


def _start(options: DualOptions, data: CaptionedImages) -> tuple[Towers, Tokenizer, dict[str, int] | None]:
    """Towers with what they start from, and the tokenizer that goes with them."""
    words: dict[str, int] | None = None
    if options.text == "bert":
        folder = pretrained.minilm_folder() if options.text_weights == "package" else Path(options.text_weights)
        bert = pretrained.bert_config(folder) | {
            "hidden_dropout_prob": options.dropout,
            "attention_probs_dropout_prob": options.dropout,
        }
        tokenizer = pretrained.bert_tokenizer(folder)
        text = TextTowerConfig(
            kind="bert",
            bert=bert,
            vocab_size=bert["vocab_size"],
            width=bert["hidden_size"],
            mean_dropout=options.text_dropout,
        )
    else:
        words = vocabulary.build(caption for image in data.images for caption in image.captions)
        tokenizer = vocabulary.tokenizer(words)
        kind = cast(Any, options.text)
        text = TextTowerConfig(
            kind=kind, vocab_size=len(words), dropout=options.dropout, mean_dropout=options.text_dropout
        )
    image = ImageTowerConfig(
        library=cast(Any, options.image_library),
        backbone=options.image_backbone,
        size=options.image_size,
        looks=options.looks,
        dropout=options.image_dropout,
    )
    bank = min(options.bank, len(data))
    towers = Towers(
        TowersConfig(embedding_dim=options.embed_dim, bank=bank, token_dim=options.token_dim, image=image, text=text)
    )
    if options.text == "bert":
        pretrained.load_text(towers, folder)
    pretrained.load_image(towers, options.image_weights)
    return towers, tokenizer, words


def _groups(objective: _Objective, frozen: Sequence[nn.Module], options: DualOptions) -> list[dict[str, Any]]:
    """Matrices decay, vectors do not; each tower's pretrained part has its own rate. The token projections are the
    reranker's and not trained here."""
    for part in (*frozen, objective.towers.image.token_projection, objective.towers.text.token_projection):
        part.requires_grad_(False)
    scales = {"towers.image.backbone.": options.image_lr_scale, "towers.text.encoder.": options.text_lr_scale}
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in objective.named_parameters():
        scratch = name.startswith("towers.text.encoder.") and options.text != "bert"
        scale = 1.0 if scratch else next((s for prefix, s in scales.items() if name.startswith(prefix)), 1.0)
        if parameter.requires_grad:
            decay = options.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((scale, decay), []).append(parameter)
    return [{"params": p, "lr": options.lr * scale, "weight_decay": decay} for (scale, decay), p in groups.items()]
