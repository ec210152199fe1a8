"""``diptych index bulk``: make an index of more photos than one process embeds in good time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diptych.cli.common import DEFAULT_STORE, StoreOption, console, extra, told_plainly


def bulk(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Folders of photos, .tar shards (WebDataset), .parquet files: paths, fsspec URLs or patterns.",
        ),
    ],
    model: Annotated[
        str | None, typer.Option(help="A published model, NAME/VERSION (default: the one being served).")
    ] = None,
    index_dir: Annotated[
        Path, typer.Option("--index-dir", help="Working folder; a run that was cut off goes on here.")
    ] = Path(".diptych/build"),
    name: Annotated[str, typer.Option(help="The index's name in the store.")] = "photos",
    root: Annotated[
        str | None,
        typer.Option(help="A folder or URL above all sources, which photos are recorded under (default: the nearest)."),
    ] = None,
    image_column: Annotated[str, typer.Option(help="Parquet files' column of images.")] = "image",
    captions_column: Annotated[
        str | None, typer.Option(help="Parquet files' column of captions, or the field of tar samples' .json.")
    ] = None,
    address: Annotated[
        str, typer.Option(help="A Ray cluster's; auto: the one this machine is part of, or else local: its own cores.")
    ] = "auto",
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Engines at work (default: one on each GPU, or else on each core).")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Photos embedded at once.")] = 32,
    activate: Annotated[bool, typer.Option(help="Serve the new index, with its model, at once.")] = True,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Embed large collections on many cores, GPUs or machines and publish the index. What was done already stays."""
    with extra("bulk"):
        from shared.artifacts import ArtifactError, ArtifactStore, Ref
        from training import index_build
        from training.bulk.job import BulkPhotos
        from training.bulk.sources import Columns, Sources
        from training.data.captioned import DataError
    with told_plainly(ArtifactError, DataError, OSError):
        shelf = ArtifactStore(store)
        current = shelf.current()
        if model is None and current is None:
            raise ArtifactError("no model is published: diptych publish one first")
        chosen = Ref.parse(model or (current.model if current else ""))
        found = Sources(sources, root, Columns(image_column, captions_column))
        built = index_build.build(
            shelf,
            chosen,
            BulkPhotos(found, shelf.path("model", chosen), address, concurrency),
            index_dir / f"{name}-{shelf.model(chosen).fingerprint[:12]}",
            name=name,
            batch_size=batch_size,
            activate=activate,
            console=console,
        )
        console.print(f"index {built} " + ("is being served" if activate else "is published"))
