"""Distil a finished model into one whose image tower is smaller. The text tower stays: the student learns to say of a
photo what the teacher says (Yang et al., 2024, https://arxiv.org/abs/2307.12732)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

from shared.artifacts import ImagePreprocessing
from shared.artifacts.manifest import MANIFEST
from shared.models import Diptych, Towers, TowersConfig
from training import classes, kept, lessons, photos, pretrained
from training.captions import Captions
from training.checkpoint import Checkpoint, CheckpointError, describe
from training.data.captioned import CaptionedImages
from training.distributed import World, world
from training.dual import finish, recalls
from training.losses import disagreement, info_nce
from training.objective import Objective, Split, begin, contrastive
from training.trainer import LAST, Metrics, Schedule, Trainer, identity, parameter_groups, quality


@dataclass(frozen=True)
class DistilOptions:
    """``teacher`` is a finished run or a model artifact. The student's backbone is trained as the dual encoder's, see
    :class:`training.dual.DualOptions`; all else is the teacher's."""

    data: Path
    teacher: Path
    out: Path
    epochs: int = 5
    batch_size: int = 256
    lr: float = 5e-4
    device: str = "auto"
    image_library: str = "timm"
    image_backbone: str = "tf_efficientnet_lite0"
    image_weights: str = "package"
    image_lr_scale: float = 0.6
    train_blocks: int = 4
    views: int = 2
    looks: int = 1
    captions_per_image: int = 2
    weight_decay: float = 0.2
    warmup: int = 20
    image_dropout: float = 0.4
    seed: int = 0
    amp: bool | None = None


def train(options: DistilOptions, console: Console) -> Metrics:
    """Run the job; leave a checkpoint in ``out``, ready to export, with the teacher's reranker if it has one.

    Raises :class:`CheckpointError` for a teacher that is none.
    """
    if options.out.resolve() == options.teacher.resolve():
        raise CheckpointError("--out must be another folder than --teacher: the teacher is kept as it is")
    published = (options.teacher / MANIFEST).exists()
    teacher = Checkpoint.published(options.teacher) if published else Checkpoint.load(options.teacher)
    towers = teacher.model.towers
    if not isinstance(towers, Towers):
        raise CheckpointError(
            f"{options.teacher} holds a CLIP-class model, whose two towers are one network: a model of `diptych train "
            "dual` or `cross` can teach"
        )
    with world(options.device) as peers:
        return _train(options, teacher, towers.to(peers.device), peers, console)


def _train(options: DistilOptions, teacher: Checkpoint, towers: Towers, peers: World, console: Console) -> Metrics:
    data, dev = begin(options.data, options.out, options.batch_size, peers, console)
    torch.manual_seed(options.seed)
    student = _student(towers, min(towers.config.bank, len(data)), options).to(peers.device).eval()
    cache = options.out / ("cache" if peers.size == 1 else f"cache-{peers.rank}")
    image = towers.config.image
    preprocessing = ImagePreprocessing(size=image.size, mean=image.mean, std=image.std)
    pixels, dev_pixels = (photos.load(split, preprocessing, cache, console) for split in (data, dev))
    taught = lessons.taught(towers.image, pixels, cache, peers.device, console)
    vectors = photos.to_tensor(taught["vector"], peers.device)
    frozen, trained = photos.divide(student, options.train_blocks)
    student.requires_grad_(False)
    for part in (student.image.projection, *trained):
        part.requires_grad_(True)
    objective = Objective(student, trained, 0).to(peers.device).eval()

    def split(of: CaptionedImages, pixels: photos.Pixels, views: int) -> Split:
        seen = photos.Seen.of(student, frozen, pixels, views, cache, peers.device, console)
        whole = Split(seen, Captions.of(of, teacher.tokenizer, towers.config.text.max_length))
        whole.means = objective.means(whole, console)
        return whole

    known, asked = split(data, pixels, options.views), split(dev, dev_pixels, 2 * options.looks - 1)
    if not (options.out / LAST).exists():
        views = [objective.features(known.seen, view, console) for view in range(options.views)]
        lessons.fit_projection(student.image, views, vectors)

    def lesson(images: Tensor, texts: Tensor, rows: Tensor, of: Tensor, scale: Tensor) -> Tensor:
        target = vectors[rows]
        return (
            (1 - (images * target).sum(dim=1)).mean()
            + disagreement(scale * texts @ images.T, scale * texts @ target.T)
            + info_nce(images, texts, rows, of, scale)
        )

    def evaluate() -> Metrics:
        return recalls(classes.Vectors.of(student, *objective.read(asked)).similarity, asked.captions.image)

    trainer = Trainer(
        objective,
        [
            *parameter_groups(student.image.projection, options.lr, options.weight_decay),
            *parameter_groups(nn.ModuleList(trained), options.lr * options.image_lr_scale, options.weight_decay),
        ],
        Schedule(options.epochs, options.warmup, amp=peers.amp(options.amp), seed=options.seed),
        peers,
        options.out,
        identity(options) | {"teacher": kept.digest([towers])},
        console,
    )
    batches = peers.batches(len(data), options.batch_size, options.seed)
    best = trainer.fit(batches, contrastive(known, options.captions_per_image, peers, lesson), evaluate, quality)
    if peers.leads:
        objective.eval()
        if teacher.model.reranker is not None:
            lessons.fit_tokens(objective, known.seen, taught["tokens"], console)
        student, best = finish(objective, known, asked, teacher.tokenizer, options.image_weights, options.seed, console)
        finished = Checkpoint(Diptych(student, teacher.model.reranker), teacher.tokenizer, teacher.words)
        finished.metrics["distil"] = best
        finished.training = {**teacher.training, "distil": describe(options)}
        finished.save(options.out)
        console.print(f"on dev: {best}\nwritten to {options.out}", highlight=False)
    return best


def _student(teacher: Towers, bank: int, options: DistilOptions) -> Towers:
    """The teacher's towers but for the image tower, which is a new one on a backbone of its own."""
    changed = {"library": options.image_library, "backbone": options.image_backbone, "looks": options.looks}
    image = teacher.config.image.model_copy(update={**changed, "dropout": options.image_dropout, "classes": 0})
    text = teacher.config.text.model_copy(update={"mean_dropout": 0.0})  # what a text says is settled
    student = Towers(TowersConfig(**{**dict(teacher.config), "bank": bank, "image": image, "text": text}))
    student.text.load_state_dict(teacher.text.state_dict())
    student.log_scale.data.copy_(teacher.log_scale)
    pretrained.load_image(student, options.image_weights)
    return student
