"""What subcommands share: options, and errors that end in a sentence instead of a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

console = Console()
errors = Console(stderr=True)

StoreOption = Annotated[
    Path, typer.Option("--store", envvar="DIPTYCH_STORE", help="The artifact store.", show_default=True)
]
DEFAULT_STORE = Path(".diptych/store")


class ModelType(StrEnum):
    """Which model ranks: the dual encoder alone, or with its best results reranked by cross-attention."""

    dual = "dual"
    cross = "cross"


class Split(StrEnum):
    train = "train"
    dev = "dev"
    test = "test"


@contextmanager
def told_plainly(*expected: type[BaseException]) -> Iterator[None]:
    """Turn errors that a person can act on into one line and exit code 1. What nobody expected stays a traceback."""
    try:
        yield
    except expected as error:
        errors.print(f"[bold red]error:[/] {error}", markup=True, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Say which extra to install when a role's library is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        errors.print(
            f"[bold red]error:[/] {error.name} is not installed: this subcommand needs pip install 'diptych\\[{name}]'",
            highlight=False,
        )
        raise typer.Exit(1) from error
