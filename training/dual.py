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
from shared.models.text_tower import BertEncoder
from training import classes, heads, photos, pretrained
from training.captions import Captions
from training.checkpoint import Checkpoint, describe
from training.data import vocabulary
from training.data.captioned import CaptionedImages
from training.distributed import World, world
from training.metrics import retrieval_metrics
from training.objective import Objective, Split, begin, contrastive
from training.trainer import LAST, Metrics, Schedule, Trainer, identity, quality


@dataclass(frozen=True)
class DualOptions:
    """The projections are first fitted on the frozen towers for ``head_epochs``. Then ``lr`` is their peak rate, and
    the pretrained towers take ``*_lr_scale`` of it.

    Of the backbone, the last ``train_blocks`` blocks are trained, and of a pretrained text encoder the last
    ``train_layers`` layers; -1 trains all. What the frozen ones see of each photo, in ``views`` ways, and make of each
    caption is computed once and kept. The finished model makes its vector from ``looks`` at a photo, and judges hubness
    by ``bank`` vectors of training data.
    """

    data: Path
    out: Path
    head_epochs: int = 40
    epochs: int = 5
    batch_size: int = 256
    lr: float = 5e-4
    embed_dim: int = 512
    token_dim: int = 128
    device: str = "auto"
    text: str = "bert"
    text_weights: str = "package"
    text_lr_scale: float = 0.4
    train_layers: int = 3
    image_library: str = "timm"
    image_backbone: str = "tf_efficientnet_lite2"
    image_weights: str = "package"
    image_lr_scale: float = 0.6
    train_blocks: int = 4
    views: int = 6
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

    @property
    def layers(self) -> int:
        """How many layers of the text encoder are trained: -1 for all."""
        return self.train_layers if self.text == "bert" else -1


def train(options: DualOptions, console: Console) -> Metrics:
    """Run the job; leave a checkpoint of the towers, the log and what is needed to resume in ``out``."""
    with world(options.device) as peers:
        return _train(options, peers, console)


def _train(options: DualOptions, peers: World, console: Console) -> Metrics:
    data, dev = begin(options.data, options.out, options.batch_size, peers, console)
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
    dev_seen = photos.Seen.of(towers, frozen, dev_pixels, 2 * options.looks - 1, cache, peers.device, console)
    objective = Objective(towers, trained, options.layers).to(peers.device).eval()
    known, asked = Split(seen, captions), Split(dev_seen, dev_captions)
    for split in (known, asked):
        if options.layers == 0:
            split.means = objective.means(split, console)
        elif options.layers > 0:
            split.states = objective.states(split.captions, cache, console)
    if not (options.out / LAST).exists():
        features = torch.stack([objective.features(seen, view, console) for view in range(options.views)], dim=1)
        means = objective.means(known, console)
        heads.fit(towers, features, means, captions, options.head_epochs, options.seed, console)

    trainer = Trainer(
        objective,
        _groups(objective, frozen, options),
        Schedule(options.epochs, options.warmup, amp=peers.amp(options.amp), seed=options.seed),
        peers,
        options.out,
        identity(options),
        console,
    )

    def evaluate() -> Metrics:
        return recalls(classes.Vectors.of(towers, *objective.read(asked)).similarity, dev_captions.image)

    batches = peers.batches(len(data), options.batch_size, options.seed)
    best = trainer.fit(batches, contrastive(known, options.captions_per_image, peers), evaluate, quality)
    if peers.leads:
        towers, best = finish(objective.eval(), known, asked, tokenizer, options.image_weights, options.seed, console)
        finished = Checkpoint(Diptych(towers), tokenizer, words)
        finished.metrics["dual"] = best
        finished.training["dual"] = describe(options)
        finished.save(options.out)
        console.print(f"on dev: {best}\nwritten to {options.out}", highlight=False)
    return best


def finish(
    objective: Objective,
    known: Split,
    asked: Split,
    tokenizer: Tokenizer,
    image_weights: str,
    seed: int,
    console: Console,
) -> tuple[Towers, Metrics]:
    """Trained towers with hubs docked and classes named, and their figures on dev (``asked``)."""
    towers, rng = objective.towers, np.random.default_rng(seed)
    sizes = len(known.seen.pixels), len(known.captions.texts)
    images, texts = (rng.permutation(size)[: max(1, towers.config.bank)] for size in sizes)
    of_known, of_asked = objective.read(known, images, texts), objective.read(asked)

    def measure(finished: Towers) -> Metrics:
        heads.fill_banks(finished, classes.Vectors.of(finished, *of_known))
        return recalls(classes.Vectors.of(finished, *of_asked).public(finished).similarity, asked.captions.image)

    classifier = pretrained.load_classifier(towers, image_weights)
    if classifier is not None:
        towers = classes.attach(towers, classifier, tokenizer, lambda named: quality(measure(named)))
        console.print(f"what the backbone's classifier names counts {float(towers.image.class_weight):.1f}")
    return towers, measure(towers)


def recalls(similarity: npt.NDArray[np.floating[Any]], caption_image: npt.NDArray[np.int64]) -> Metrics:
    """The figures watched while training, from (photos, captions) similarities."""
    metrics = retrieval_metrics(similarity, caption_image)
    ways = (("t2i", metrics.t2i), ("i2t", metrics.i2t))
    return {f"{way}_r{k}": value for way, m in ways for k, value in ((1, m.r1), (5, m.r5), (10, m.r10))}


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
    if isinstance(encoder := towers.text.encoder, BertEncoder):
        if options.train_layers >= (layers := len(encoder.bert.encoder.layer)):
            raise ValueError(f"the text encoder has {layers} layers: to train them all, say --train-layers -1")
        pretrained.load_text(towers, folder)
    pretrained.load_image(towers, options.image_weights)
    return towers, tokenizer, words


def _groups(objective: Objective, frozen: Sequence[nn.Module], options: DualOptions) -> list[dict[str, Any]]:
    """Matrices decay, vectors do not; each tower's pretrained part has its own rate. The token projections are the
    reranker's and not trained here."""
    untrained = [objective.towers.image.token_projection, objective.towers.text.token_projection]
    encoder = objective.towers.text.encoder
    if isinstance(encoder, BertEncoder) and options.train_layers >= 0:
        layers = encoder.bert.encoder.layer
        untrained += [encoder.bert.embeddings, *layers[: len(layers) - options.train_layers]]
    for part in (*frozen, *untrained):
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
