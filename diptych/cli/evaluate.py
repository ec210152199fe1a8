"""``diptych evaluate``: the recall of a model artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from diptych.cli.common import (
    DEFAULT_STORE,
    ArtifactOption,
    DataOption,
    EngineOption,
    ModelType,
    Split,
    SplitOption,
    StoreOption,
    console,
    extra,
    load_split,
    told_plainly,
    write_result,
)


def evaluate(
    context: typer.Context,
    data: DataOption,
    split: SplitOption = Split.dev,
    model: Annotated[ModelType, typer.Option(help="The dual encoder alone, or with reranking.")] = ModelType.dual,
    artifact: ArtifactOption = None,
    depth: Annotated[int, typer.Option(min=1, help="How many of the dual encoder's best are reranked.")] = 50,
    engine: EngineOption = "auto",
    report: Annotated[Path | None, typer.Option("--json", help="Also write the report to this file.")] = None,
    trec: Annotated[Path | None, typer.Option(help="Also write TREC run and qrels files to this folder.")] = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """R@1/5/10 and median rank, both ways, with every caption of the split as a query."""
    with extra("train"):
        from diptych import shipped
        from shared.artifacts import ArtifactError
        from shared.engines import open_engine
        from shared.engines.images import ImageError
        from training import evaluate as job
        from training.data.captioned import DataError
    with told_plainly(ArtifactError, DataError, ImageError, OSError, ValueError):
        loaded = open_engine(artifact or shipped.current_model(store), engine=engine)
        if model is ModelType.cross and not loaded.manifest.has_reranker:
            raise ArtifactError(f"{loaded.manifest.ref} has no reranker; use --model dual")
        photos = load_split(data, split)
        found = job.evaluate(loaded, photos, model.value, console, depth=depth, trec=trec)
        found = {"split": split.value, **found}
        if report is not None:
            write_result(report, context, found)
    size = f"{found['images']} photos, {found['captions']} captions"
    table = Table(title=f"{found['artifact']}, {model.value}, {split.value}: {size}")
    for column in ("", "R@1", "R@5", "R@10", "median rank"):
        table.add_column(column, justify="right")
    for way, title in (("t2i", "text to image"), ("i2t", "image to text")):
        side = found[way]
        table.add_row(title, *(f"{side[k]:.1f}" for k in ("r1", "r5", "r10", "median_rank")))
    console.print(table)
    console.print(f"expected calibration error {found['expected_calibration_error']:.3f}")
