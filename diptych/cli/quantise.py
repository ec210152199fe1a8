"""``diptych quantise``: a smaller form of a model artifact, with what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from diptych.cli.common import console, extra, told_plainly, write_result


def quantise(
    context: typer.Context,
    artifact: Annotated[Path, typer.Argument(help="The folder of a model artifact.")],
    data: Annotated[Path, typer.Option(help="The data set: its dev split measures both.")],
    out: Annotated[Path, typer.Option(help="Where to write the int8 artifact.")],
    version: Annotated[str | None, typer.Option(help="Its version (default: the other's and -int8).")] = None,
    depth: Annotated[int, typer.Option(min=1, help="How many candidates are reranked when it is measured.")] = 50,
    max_loss: Annotated[
        float, typer.Option(help="Points of R@1 that it may lose on dev, either way, dual or cross.")
    ] = 0.5,
    report: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
) -> None:
    """Make an int8 artifact of a half-precision one, and measure both on dev side by side.

    It stores 8 bits for each weight of the towers, with a scale for each output, and computes in float as fast as
    before. It is published, evaluated and indexed like any other; an index belongs to the artifact that built it.
    Nothing is written when it loses more than --max-loss.
    """
    with extra("train"):
        from shared.artifacts import ArtifactError
        from shared.engines.images import ImageError
        from training import quantise as job
        from training.checkpoint import CheckpointError
        from training.data.captioned import DataError
    with told_plainly(ArtifactError, CheckpointError, DataError, ImageError, OSError, ValueError):
        found = job.quantise(artifact, data, out, version=version, depth=depth, max_loss=max_loss, console=console)
        if report is not None:
            write_result(report, context, found)
    console.print(_table(found, job.WAYS))
    console.print(f"{found['quantised']} is in {out}\nnext: diptych publish {out}", soft_wrap=True)


def _table(found: dict[str, Any], ways: dict[str, str]) -> Table:
    table = Table(title=f"{found['quantised']}, made from {found['artifact']}, on dev")
    for column in ("", "float", "int8"):
        table.add_column(column, justify="right")
    sides = (found["float"], found["int8"])
    for model in ("dual", "cross"):
        for way, title in ways.items():
            if model in sides[0]:
                recalls = (" / ".join(f"{side[model][way][k]:.1f}" for k in ("r1", "r5", "r10")) for side in sides)
                table.add_row(f"{model}, {title}, R@1 / 5 / 10", *recalls)
    table.add_row("MB", *(f"{side['bytes'] / 1e6:.1f}" for side in sides))
    return table
