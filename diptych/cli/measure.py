"""``diptych measure``: what the report on the results is made of, one file of figures each, and the report itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diptych.cli.common import (
    DEFAULT_STORE,
    ArtifactOption,
    DataOption,
    EngineOption,
    Split,
    SplitOption,
    StoreOption,
    console,
    extra,
    load_split,
    told_plainly,
    write_result,
)

if TYPE_CHECKING:
    from shared.engines.engine import Engine

app = typer.Typer(help="Measure a model and its data, and write the report.", no_args_is_help=True)

Out = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")]


def _depths(value: str) -> str:
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise typer.BadParameter(f"{value!r} is no list of numbers from 1 on, as in 5,10,20")
    return value


@app.command()
def depth(
    context: typer.Context,
    data: DataOption,
    split: SplitOption = Split.dev,
    depths: Annotated[
        str, typer.Option(callback=_depths, help="How many of the dual encoder's best are reranked.")
    ] = "5,10,20,50,100",
    artifact: ArtifactOption = None,
    engine: EngineOption = "auto",
    out: Out = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """What reranking more candidates gives, and how long it takes."""
    with extra("train"):
        from training import depth as job
    with _told():
        photos, wanted = load_split(data, split), [int(number) for number in depths.split(",")]
        found = job.sweep(_opened(artifact, store, engine), photos, wanted, console)
        for row in found["depths"]:
            console.print(
                f"{row['depth']:4} reranked in {row['milliseconds']:6.1f} ms: R@1 {row['t2i']['r1']:.1f} text to image,"
                f" {row['i2t']['r1']:.1f} image to text"
            )
        _write(out, context, {"split": split.value, **found})


@app.command()
def gallery(
    context: typer.Context,
    artifact: ArtifactOption = None,
    engine: EngineOption = "auto",
    out: Out = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """The demo's own photos, with captions of our own: recall, the examples, and names of things."""
    with extra("train"), extra("gallery"):
        from diptych.gallery import measure as job
    with _told():
        found = job.measure(_opened(artifact, store, engine), console)
        for model in ("dual", "cross"):
            console.print(
                f"{model}: R@1 {found[model]['t2i']['r1']:.1f} text to image, {found[model]['i2t']['r1']:.1f} image to"
                f" text; names of ImageNet {found['names']['imagenet'][model]['r1']:.1f},"
                f" other names {found['names']['other'][model]['r1']:.1f}"
            )
        _write(out, context, found)


@app.command()
def failures(
    context: typer.Context,
    data: DataOption,
    split: SplitOption = Split.dev,
    worst: Annotated[int, typer.Option(min=0, help="How many of the photos found last are named.")] = 20,
    artifact: ArtifactOption = None,
    engine: EngineOption = "auto",
    out: Out = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """How it fails: by kind of caption, by hubs, and how often the wrong answer is as good. Shows no caption."""
    with extra("train"):
        from training import failures as job
        from training.data import layouts
    with _told():
        photos, train = load_split(data, split), layouts.load(data, "train")
        found = job.find(_opened(artifact, store, engine), photos, train, console, worst=worst)
        for row in found["kinds"]:
            console.print(
                f"{row['kind']}: {row['answer']}: {row['captions']} captions, R@1 {row['dual_r1']:.1f} dual,"
                f" {row['cross_r1']:.1f} cross"
            )
        _write(out, context, {"split": split.value, **found})


@app.command()
def tokens(
    context: typer.Context,
    data: DataOption,
    split: SplitOption = Split.dev,
    depth: Annotated[int, typer.Option(min=1, help="How many of the dual encoder's best are reranked.")] = 50,
    artifact: ArtifactOption = None,
    engine: EngineOption = "auto",
    out: Out = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """What it costs that token features are stored in int8."""
    with extra("train"):
        from shared.tokens import TokenFeatures
        from training import token_cost as job
    with _told():
        photos = load_split(data, split)
        found = job.compare(_opened(artifact, store, engine, compact=TokenFeatures.exact), photos, depth, console)
        for name in ("exact", "stored"):
            console.print(
                f"{name} tokens, {found[name]['bytes_a_photo']:,} bytes a photo: R@1 {found[name]['t2i']['r1']:.1f}"
                f" text to image, {found[name]['i2t']['r1']:.1f} image to text"
            )
        _write(out, context, {"split": split.value, **found})


@app.command()
def dataset(context: typer.Context, data: DataOption, out: Out = None) -> None:
    """What can be counted in a data set."""
    with extra("train"):
        from training.data import count as job
    with _told():
        found = job.count(data)
        for name, part in found["splits"].items():
            console.print(f"{name}: {part['images']:,} images, {part['captions']:,} captions")
        _write(out, context, found)


@app.command()
def report(
    results: Annotated[Path, typer.Argument(help="The folder of result files.")] = Path("docs/results"),
    model: Annotated[Path | None, typer.Option(help="The artifact that they are about (default: the shipped).")] = None,
    out: Annotated[Path | None, typer.Option(help="The page to write (default: beside the folder).")] = None,
) -> None:
    """Write the report on the results, and its plots, from the result files."""
    with extra("gallery"):
        from diptych import shipped
        from training.report import ReportError, write
    with _told(ReportError):
        page = out or results.with_suffix(".md")
        write(results, model or shipped.model(), page)
        console.print(f"wrote {page}", soft_wrap=True)


def _told(*more: type[BaseException]) -> Any:
    from shared.artifacts import ArtifactError
    from shared.engines.images import ImageError
    from training.data.captioned import DataError

    return told_plainly(ArtifactError, DataError, ImageError, OSError, ValueError, *more)


def _opened(artifact: Path | None, store: Path, engine: str, **options: Any) -> Engine:
    from diptych import shipped
    from shared.artifacts import ArtifactError
    from shared.engines import open_engine

    loaded = open_engine(artifact or shipped.current_model(store), engine=engine, **options)
    if not loaded.manifest.has_reranker:
        raise ArtifactError(f"{loaded.manifest.ref} has no reranker, and this measures reranking: train one")
    return loaded


def _write(out: Path | None, context: typer.Context, found: Mapping[str, Any]) -> None:
    if out is not None:
        write_result(out, context, found)
