"""``diptych serve``: one service in the foreground, its settings from ``DIPTYCH_<SERVICE>_*``."""

from __future__ import annotations

import typer

from diptych.cli.common import extra, tell

app = typer.Typer(help="Run one service. Settings come from DIPTYCH_* variables.", no_args_is_help=True)


@app.command()
def encoder() -> None:
    """Embeds text and images, and scores pairs (port 8001)."""
    with extra("encoder"):
        from services.encoder.app import main
    _run(main)


@app.command()
def index() -> None:
    """Answers nearest-neighbour queries over the published index (port 8002)."""
    with extra("index"):
        from services.index.app import main
    _run(main)


@app.command()
def gateway() -> None:
    """The public API (port 8000, documentation at /docs)."""
    with extra("gateway"):
        from services.gateway.app import main
    _run(main)


@app.command()
def demo() -> None:
    """The search page (port 7860); talks only to the gateway."""
    with extra("demo"):
        from services.demo.app import main
    _run(main)


def _run(main: object) -> None:
    from pydantic import ValidationError

    assert callable(main)
    try:
        main()
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        tell(f"a setting is not valid: {faults}")
        raise typer.Exit(2) from error
