"""``diptych keys``: who may ask a gateway, and for what."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.table import Table

from diptych.cli.common import console, errors, told_plainly

if TYPE_CHECKING:
    from shared import keys as kept

app = typer.Typer(help="Make, list and revoke a gateway's API keys.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is: letters, digits, dots and dashes.")]
KeysFile = Annotated[
    Path, typer.Option("--file", envvar="DIPTYCH_GATEWAY_API_KEYS", help="The file that the gateway follows.")
]


class Scope(StrEnum):
    """read: search, photos, models. write: change the collection. admin: tend the service."""

    read = "read"
    write = "write"
    admin = "admin"


@app.command()
def create(
    name: Name,
    file: KeysFile,
    scope: Annotated[list[Scope], typer.Option(help="What the key may do; give it once for each.")],
    per_minute: Annotated[int | None, typer.Option(min=1, help="Requests a minute (default: without a limit).")] = None,
) -> None:
    """Make a key and print it. It is shown this once; the file holds its SHA-256."""
    from diptych import keyring
    from shared.keys import KeyFileError

    scopes = cast("list[kept.Scope]", [one.value for one in dict.fromkeys(scope)])
    with told_plainly(KeyFileError, OSError):
        key = keyring.create(file, name, scopes, per_minute)
    told = f"key {name} may {' and '.join(scopes)}. It is shown this once; keep it where only its user can read it:"
    errors.print(told, soft_wrap=True)
    typer.echo(key)


@app.command("list")
def list_keys(file: KeysFile) -> None:
    """Every key's name and what it may do."""
    from shared.keys import KeyFileError, read_keys

    with told_plainly(KeyFileError):
        keys = read_keys(file).keys
    table = Table(title=str(file))
    for column in ("name", "may", "a minute"):
        table.add_column(column)
    for key in keys:
        limit = f"{key.requests_per_minute:,}" if key.requests_per_minute else "no limit"
        table.add_row(key.name, ", ".join(key.scopes), limit)
    console.print(table)


@app.command()
def revoke(name: Name, file: KeysFile) -> None:
    """Take a key back. Running gateways refuse it within a second or two."""
    from diptych import keyring
    from shared.keys import KeyFileError

    with told_plainly(KeyFileError, OSError):
        keyring.revoke(file, name)
    console.print(f"revoked {name}")
