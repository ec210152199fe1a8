"""What subcommands share: options, a split to work on, and errors that end in a sentence instead of a traceback."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from training.data.captioned import CaptionedImages

# Captions, file names and queries are shown as they are: "[red]" in one of them is text, not a colour.
console = Console(markup=False, highlight=False, emoji=False)
errors = Console(stderr=True, markup=False, highlight=False, emoji=False)

StoreOption = Annotated[
    Path, typer.Option("--store", envvar="DIPTYCH_STORE", help="The artifact store.", show_default=True)
]
DEFAULT_STORE = Path(".diptych/store")
DataOption = Annotated[
    Path, typer.Option("--data", help="The data set: Flickr8k's layout, or captions.csv/jsonl beside photos.")
]
ArtifactOption = Annotated[
    Path | None,
    typer.Option("--artifact", help="A model artifact's folder (default: the store's current, else the shipped one)."),
]
EngineOption = Annotated[str, typer.Option("--engine", help="auto, onnx or torch.")]


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


SplitOption = Annotated[Split, typer.Option(help="Which part of the data set.")]


def load_split(data: Path, split: Split) -> CaptionedImages:
    """A split of a data set, described. Raises what :func:`training.data.layouts.load` raises."""
    from training.data import layouts

    photos = layouts.load(data, split.value)
    console.print(f"{split.value}: {photos.describe()}")
    return photos


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


def typed(context: typer.Context) -> str:
    """The running command as a person would type it: the options that were given, in the order of the help.

    What lies under the working directory is shown relative to it, anything else by its name alone: where a data set
    lies on one machine is no part of a result.
    """
    words: list[str] = []
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is None or source.name != "COMMANDLINE":
            continue
        value = context.params[parameter.name or ""]
        if parameter.param_type_name == "option":
            words.append(next(name for name in parameter.opts if name.startswith("--")))
        words.append(shlex.quote(_shown(value) if isinstance(value, Path) else str(value)))
    step: Any = context
    while step.parent is not None:
        words.insert(0, step.info_name)
        step = step.parent
    return " ".join(["diptych", *words])


def _shown(path: Path) -> str:
    whole, here = path.resolve(), Path.cwd()
    return whole.relative_to(here).as_posix() if whole.is_relative_to(here) else whole.name


def write_result(path: Path, context: typer.Context, found: Mapping[str, Any]) -> None:
    """Write what was measured, with the command that measures it again, as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"command": typed(context), **found}, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
