"""The page about the command line, from the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator

import typer
from typer.core import TyperCommand, TyperGroup

from diptych.cli import app
from diptych.reference.markdown import code, document, table

_TOP = """
`make demo` puts the command into `.venv/bin`; `python -m diptych` is the same. Every subcommand explains itself with
`--help`. Usage errors end with exit code 2, what could not be done with 1 and one line that says why and what to do.
"""


def page() -> str:
    root = typer.main.get_command(app)
    found = list(leaves(root, "diptych"))
    contents = table(
        ["command", "what it does"],
        ([f"[{code(name)}](#{_anchor(name)})", (command.help or "").split("\n\n", 1)[0]] for name, command in found),
    )
    return document("Command line", _TOP, contents, *(_section(name, command) for name, command in found))


def leaves(command: object, name: str) -> Iterator[tuple[str, TyperCommand]]:
    """Every command that does something, with its whole name."""
    if isinstance(command, TyperGroup):
        for below, inner in command.commands.items():
            yield from leaves(inner, f"{name} {below}")
    else:
        assert isinstance(command, TyperCommand)
        yield name, command


def _section(name: str, command: TyperCommand) -> str:
    context = typer.Context(command, info_name=name)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    records = [parameter.get_help_record(context) for parameter in command.params]
    rows = [[code(record[0]), record[1]] for record in records if record is not None]
    options = table(["argument or option", "meaning"], rows) if rows else ""
    blocks = [f"## {code(name)}", command.help or "", f"```text\n{usage}\n```", options]
    return "\n\n".join(block for block in blocks if block)


def _anchor(heading: str) -> str:
    return heading.replace(" ", "-")
