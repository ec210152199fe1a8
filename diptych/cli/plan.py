"""``diptych plan``: what a collection will take."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from diptych.cli.common import ModelType, console, extra, told_plainly


def plan(
    items: Annotated[int, typer.Option(min=1, help="Photos.")],
    qps: Annotated[float, typer.Option(min=0, help="Text queries a second, at the peak.")] = 10.0,
    recall: Annotated[
        float, typer.Option(min=0.5, max=1, help="Of the ten best by exact search, how many must be found.")
    ] = 0.95,
    memory: Annotated[
        float, typer.Option(min=0.1, help="Memory of one machine that the index may take, in GB.")
    ] = 16.0,
    cores: Annotated[int, typer.Option(min=1, help="Cores of one machine.")] = 2,
    captions: Annotated[float, typer.Option(min=0, help="Captions of each photo.")] = 0.0,
    cached: Annotated[float, typer.Option(min=0, max=1, help="Share of the queries that were asked before.")] = 0.0,
    model_type: Annotated[ModelType, typer.Option("--model-type", help="cross reranks the best 50.")] = ModelType.dual,
    measured: Annotated[
        Path | None, typer.Option(help="Result files of make bench and make bench-scale (default: the ones that ship).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Memory, disk, time and replicas for a collection that is not there yet, from what was measured on a machine."""
    with extra("serve"):
        from diptych import planning
    wanted = planning.Wanted(items, qps, recall, memory * 1e9, cores, captions, cached, model_type.value)
    with told_plainly(planning.PlanError):
        made = planning.plan(wanted, measured or planning.MEASURED)
    if as_json:
        typer.echo(json.dumps(asdict(made), indent=1))
        return
    table = Table("", "", "", "rests on", title=f"{items:,} photos in shards of kind {made.kind}", title_justify="left")
    for line in made.lines:
        table.add_row(line.what, f"{line.value:,.4g} {line.unit}", line.basis, line.because)
    console.print(table)
    for note in made.notes:
        console.print(f"- {note}", highlight=False)
