"""``diptych search``: ask from the command line, offline on the store's artifacts or through a gateway."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from diptych.cli.common import DEFAULT_STORE, Cutoff, ModelType, StoreOption, console, extra, told_plainly

if TYPE_CHECKING:
    from diptych.searching import Searcher
    from shared.schemas import Answer
    from shared.scoring import Cut

app = typer.Typer(help="Find pictures by words, or words by a picture.", no_args_is_help=True)

Type = Annotated[ModelType, typer.Option("--model-type", "--model_type", help="dual, or cross to rerank.")]
K = Annotated[int, typer.Option("-k", "--k", min=1, max=1000, help="How many results.")]
MinScore = Annotated[float, typer.Option(help="Leave out what is a match with a probability below this.")]
CutoffOption = Annotated[Cutoff, typer.Option(help="auto ends the list where its expected F1 is highest.")]
Html = Annotated[Path | None, typer.Option(help="Write a page with the pictures to this file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Gateway = Annotated[
    str | None,
    typer.Option(
        envvar="DIPTYCH_GATEWAY",
        help="Ask this gateway instead of the store; DIPTYCH_API_KEY holds the key it may want.",
    ),
]


@app.command()
def text(
    query: Annotated[str, typer.Argument(help="What should be in the picture.")],
    model_type: Type = ModelType.dual,
    k: K = 5,
    min_score: MinScore = 0.0,
    cutoff: CutoffOption = Cutoff.none,
    html: Html = None,
    as_json: Json = False,
    gateway: Gateway = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Find the pictures that fit a text."""
    cut = _cut(min_score, cutoff)
    with _asking(gateway, store) as searcher:
        answer = searcher.text_to_image(query, k=k, model_type=model_type.value, cut=cut)
        if html is not None:
            from diptych import report

            report.write(html, answer, [searcher.thumbnail(result.image_id) for result in answer.results])
    if as_json:
        console.print_json(json.dumps(answer.model_dump(mode="json")))
        return
    table = Table(title=f"{answer.query!r} · {answer.model_type} · model {answer.model_version}")
    for column in ("", "score", "picture", "id"):
        table.add_column(column)
    for rank, result in enumerate(answer.results, 1):
        table.add_row(str(rank), f"{result.score:.3f}", result.image_name, result.image_id)
    _show(table, answer)


@app.command()
def image(
    query: Annotated[Path, typer.Argument(help="A picture file.")],
    model_type: Type = ModelType.dual,
    k: K = 5,
    min_score: MinScore = 0.0,
    cutoff: CutoffOption = Cutoff.none,
    html: Html = None,
    as_json: Json = False,
    gateway: Gateway = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Find the captions that fit a picture."""
    cut = _cut(min_score, cutoff)
    with _asking(gateway, store) as searcher:
        answer = searcher.image_to_text(query, k=k, model_type=model_type.value, cut=cut)
        if html is not None:
            from diptych import report

            report.write(html, answer, [query.read_bytes()])
    if as_json:
        console.print_json(json.dumps(answer.model_dump(mode="json")))
        return
    table = Table(title=f"{answer.query_image} · {answer.model_type} · model {answer.model_version}")
    for column in ("", "score", "caption"):
        table.add_column(column)
    for rank, result in enumerate(answer.results, 1):
        table.add_row(str(rank), f"{result.score:.3f}", result.caption)
    _show(table, answer)


def _show(table: Table, answer: Answer) -> None:
    console.print(table)
    if answer.left_out:
        console.print(f"{answer.left_out} less likely left out")


def _cut(min_score: float, cutoff: Cutoff) -> Cut:
    from shared.scoring import Cut

    try:
        return Cut(min_score, cutoff.value)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--min-score") from error


@contextmanager
def _asking(gateway: str | None, store: Path) -> Iterator[Searcher]:
    """A searcher on the gateway or on the store, whose expected errors end in a sentence."""
    with extra("serve"):
        from diptych import DiptychError
        from diptych.searching import SearchError, open_searcher
        from shared.artifacts import ArtifactError
        from shared.engines.images import ImageError
    with told_plainly(ArtifactError, DiptychError, ImageError, SearchError, OSError):
        yield open_searcher(gateway, store)
