"""``diptych up`` and ``diptych smoke``: the whole system on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diptych.cli.common import console, extra, told_plainly

Port = Annotated[int, typer.Option(min=1, max=65535, help="Where the gateway listens.")]
DemoPort = Annotated[int, typer.Option(min=1, max=65535, help="Where the page listens.")]


def up(
    photos: Annotated[Path | None, typer.Option(help="Serve the photos in this folder.")] = None,
    flickr8k: Annotated[Path | None, typer.Option(help="Serve a copy of Flickr8k, with its captions.")] = None,
    state: Annotated[Path, typer.Option(help="Where everything is kept.")] = Path(".diptych"),
    host: Annotated[str, typer.Option(help="Address that the gateway and the page listen on.")] = "127.0.0.1",
    port: Port = 8000,
    demo_port: DemoPort = 7860,
    encoders: Annotated[int, typer.Option(min=1, help="Encoder processes, which share the cores.")] = 1,
    redis_url: Annotated[
        str | None, typer.Option(envvar="DIPTYCH_REDIS_URL", help="A Redis to use instead of one of our own.")
    ] = None,
) -> None:
    """Start everything on this machine, index the photos, and serve them until Ctrl-C. Without photos: a gallery."""
    with extra("serve"):
        from diptych import up as job
        from training.data.captioned import DataError
    with told_plainly(*job.EXPECTED_ERRORS, DataError):
        job.up(
            photos=photos,
            flickr8k=flickr8k,
            state=state,
            host=host,
            gateway_port=port,
            demo_port=demo_port,
            encoders=encoders,
            redis_url=redis_url,
            console=console,
        )


def smoke() -> None:
    """Do the whole first run unattended, on free ports in a temporary place: start, index, ask, check, stop."""
    with extra("serve"):
        from diptych import smoke as job
    with told_plainly(job.SmokeError, OSError):
        job.smoke(console)
