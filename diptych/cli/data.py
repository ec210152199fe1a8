"""``diptych data``: get and check data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diptych.cli.common import console, extra, told_plainly

app = typer.Typer(help="Get and check data sets.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps ``flickr8k`` a subcommand while it is the only one."""


@app.command()
def flickr8k(
    directory: Annotated[Path, typer.Argument(help="Where the data set is, or should be put.")],
) -> None:
    """Check a copy of Flickr8k, or download one when there is none (1.1 GB, resumable)."""
    with extra("train"):
        from training.data import download
        from training.data.captioned import DataError
    with told_plainly(DataError, OSError):
        download.fetch(directory, console)
