"""``diptych collection``: what a running gateway searches, changed from the command line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from diptych.cli.common import DEFAULT_STORE, StoreOption, console, extra, tell, told_plainly

if TYPE_CHECKING:
    from shared.client import Client
    from training.data.captioned import CaptionedImage

app = typer.Typer(help="Add photos to what is being searched, or remove them.", no_args_is_help=True)

Gateway = Annotated[str, typer.Option(envvar="DIPTYCH_GATEWAY", help="The gateway to ask.")]
Name = Annotated[str | None, typer.Option(help="The index's name (default: that of the one being served).")]
_DEFAULT = "http://127.0.0.1:8000"
_SHOWN = 20


@app.command()
def add(
    paths: Annotated[list[Path], typer.Argument(help="Photos, or folders of photos with or without a captions file.")],
    tag: Annotated[list[str] | None, typer.Option(help="A tag for all of them; may be repeated.")] = None,
    together: Annotated[int, typer.Option(min=1, help="How many are sent at the same time.")] = 8,
    gateway: Gateway = _DEFAULT,
) -> None:
    """Put photos in, with the captions that lie beside them.

    Each can be searched as soon as it is counted. What is there already stays, so that a call that was interrupted can
    simply be repeated.
    """
    with _asking(gateway) as client:
        waiting = [image for path in paths for image in _images(path)]
        outcomes: Counter[str] = Counter()
        failed: list[tuple[Path, str]] = []
        with ThreadPoolExecutor(together) as pool:
            jobs = {pool.submit(_put, client, image, tag or []): image.path for image in waiting}
            try:
                from rich.progress import track

                for job in track(as_completed(jobs), "adding", total=len(jobs), console=console):
                    outcome = job.result()
                    if isinstance(outcome, Exception):
                        failed.append((jobs[job], str(outcome)))
                    else:
                        outcomes[outcome] += 1
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    words = ", ".join(f"{count:,} {status}" for status, count in sorted(outcomes.items()))
    console.print(f"{words or 'nothing added'}{f', {len(failed):,} failed' if failed else ''}", highlight=False)
    for path, problem in failed[:_SHOWN]:
        tell(f"{path}: {problem}")
    if failed:
        raise typer.Exit(1)


@app.command()
def remove(
    ids: Annotated[list[str], typer.Argument(help="Ids, as search results and `diptych collection list` show them.")],
    gateway: Gateway = _DEFAULT,
) -> None:
    """Remove photos and their captions."""
    with _asking(gateway) as client:
        unknown = [image_id for image_id in ids if not client.remove_image(image_id)]
    console.print(f"{len(ids) - len(unknown):,} removed", highlight=False)
    if unknown:
        tell(f"there is no photo {', '.join(unknown)}")
        raise typer.Exit(1)


@app.command("list")
def list_(gateway: Gateway = _DEFAULT) -> None:
    """Show all photos, by id."""
    with _asking(gateway) as client:
        table = Table("id", "name", "captions", "tags")
        for image in client.images():
            table.add_row(image.id, image.name, "\n".join(image.captions), ", ".join(image.tags))
    console.print(table)


@app.command()
def backup(
    target: Annotated[Path, typer.Argument(help="A new folder.")], name: Name = None, store: StoreOption = DEFAULT_STORE
) -> None:
    """Copy what was put in, as it is now, while it is being served."""
    from rich.progress import Progress

    with extra("serve"):
        from shared.artifacts import ArtifactError
        from shared.collections.backup import backup as copy
    with told_plainly(ArtifactError, OSError), Progress(console=console, transient=True) as progress:
        task = progress.add_task("photos")
        count = copy(_library(name, store), target, lambda done, of: progress.update(task, completed=done, total=of))
    console.print(f"{count:,} photos are in {target}", highlight=False)


@app.command()
def restore(
    source: Annotated[Path, typer.Argument(help="A folder that `diptych collection backup` made.")],
    name: Name = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Go back to a copy, with the services stopped. What was put in since is removed; a copy of that stays beside."""
    from rich.progress import Progress

    with extra("serve"):
        from shared.artifacts import ArtifactError
        from shared.collections.backup import restore as put_back
    with told_plainly(ArtifactError, OSError), Progress(console=console, transient=True) as progress:
        task, library = progress.add_task("photos"), _library(name, store)
        count = put_back(source, library, lambda done, of: progress.update(task, completed=done, total=of))
    console.print(f"{count:,} photos are back; what was there before is in {library}.before", highlight=False)


@app.command()
def compact(name: Name = None, store: StoreOption = DEFAULT_STORE) -> None:
    """Give back the room of photos that were removed or replaced, with the services stopped."""
    with extra("serve"):
        from shared.artifacts import ArtifactError
        from shared.collections import Library, LibraryReader
    with told_plainly(ArtifactError, OSError):
        folder = _library(name, store)
        if not LibraryReader(folder).exists:
            raise ArtifactError(f"{folder} holds no library: nothing has been put into this collection")
        with closing(Library(folder)) as library:
            freed = library.compact()
    console.print(f"{freed:,} bytes were given back", highlight=False)


def _library(name: str | None, store: Path) -> Path:
    from shared.artifacts import ArtifactError, ArtifactStore, Ref
    from shared.collections import LIBRARIES

    if name is None:
        current = ArtifactStore(store).current()
        if current is None or current.index is None:
            raise ArtifactError(f"nothing is indexed in {store}: give the collection's --name")
        name = Ref.parse(current.index).name
    return store / LIBRARIES / name


def _images(path: Path) -> list[CaptionedImage]:
    from training.data.captioned import CaptionedImage
    from training.index_build import photos_in

    return list(photos_in(path).images) if path.is_dir() else [CaptionedImage(path, path.name, ())]


def _put(client: Client, image: CaptionedImage, tags: list[str]) -> str | Exception:
    from shared.client import DiptychError

    try:
        return client.put_image(image.path, captions=image.captions, tags=tags).status
    except (DiptychError, OSError) as error:
        return error


@contextmanager
def _asking(gateway: str) -> Iterator[Client]:
    with extra("serve"):
        from diptych import Client, DiptychError
        from training.data.captioned import DataError
    with told_plainly(DataError, DiptychError, OSError), Client(gateway, timeout=120, retries=5) as client:
        yield client
