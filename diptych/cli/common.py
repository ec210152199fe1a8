"""What subcommands share: options, and errors that end in a sentence instead of a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

# Captions, file names and queries are shown as they are: "[red]" in one of them is text, not a colour.
console = Console(markup=False, highlight=False, emoji=False)
errors = Console(stderr=True, markup=False, highlight=False, emoji=False)

StoreOption = Annotated[
    Path, typer.Option("--store", envvar="DIPTYCH_STORE", help="The artifact store.", show_default=True)
]
DEFAULT_STORE = Path(".diptych/store")


class ModelType(StrEnum):
    """Which model ranks: the dual encoder alone, or with its best results reranked by cross-attention."""

    dual = "dual"
    cross = "cross"


class Cutoff(StrEnum):
    """Whether a list of results ends by itself."""

    none = "none"
    auto = "auto"


class Split(StrEnum):
    train = "train"
    dev = "dev"
    test = "test"


def tell(sentence: str) -> None:
    """Say on stderr what went wrong."""
    errors.print(Text.assemble(("error: ", "bold red"), sentence), soft_wrap=True)


@contextmanager
def told_plainly(*expected: type[BaseException]) -> Iterator[None]:
    """Turn errors that a person can act on into one line and exit code 1. What nobody expected stays a traceback."""
    try:
        yield
    except expected as error:
        tell(str(error))
        raise typer.Exit(1) from error


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Say which extra to install when a role's library is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        tell(f"{error.name} is not installed: this subcommand needs pip install 'diptych[{name}]'")
        raise typer.Exit(1) from error
