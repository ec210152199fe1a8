"""``diptych publish`` and ``diptych artifacts``: what the store holds and what it points to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from diptych.cli.common import DEFAULT_STORE, StoreOption, console, told_plainly
from shared.artifacts import ArtifactError, ArtifactStore, Deployment, ModelManifest, Ref, read_manifest

app = typer.Typer(help="List, verify, activate, roll back and prune published artifacts.", no_args_is_help=True)


def publish(
    sources: Annotated[list[Path], typer.Argument(help="Artifact folders: a model, an index, or one of each.")],
    renumber: Annotated[bool, typer.Option(help="Give each the next free version number.")] = False,
    activate: Annotated[bool, typer.Option(help="Serve them at once where they fit together.")] = True,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Copy artifacts into the store and, when a model and an index fit together, point the services at them."""
    with told_plainly(ArtifactError, OSError):
        shelf = ArtifactStore(store)
        model = index = None
        for source in sources:
            manifest = read_manifest(source)
            version = shelf.next_version(manifest.kind, manifest.name) if renumber else None
            published = shelf.publish(source, version=version)
            console.print(f"published {published.kind} {published.ref}")
            if isinstance(published, ModelManifest):
                model = published
            else:
                index = published
        current = shelf.current()
        if not activate:
            return
        if model is None and current is not None:
            model = shelf.model(Ref.parse(current.model))
        if index is None and current is not None and current.index is not None:
            index = shelf.index(Ref.parse(current.index))
        if model is None:
            console.print("not served yet: no model is published; diptych publish MODEL_FOLDER")
        elif index is None:
            _tell_served(shelf.activate(Ref.parse(model.ref), None))
        elif index.fingerprint != model.fingerprint:
            console.print(
                f"not served yet: the index in use was built by another model.\n"
                f"next: diptych index build --model {model.ref} ...",
            )
        else:
            _tell_served(shelf.activate(Ref.parse(model.ref), Ref.parse(index.ref)))


@app.command("list")
def list_artifacts(store: StoreOption = DEFAULT_STORE) -> None:
    """Every published version, and which are being served."""
    with told_plainly(ArtifactError, OSError):
        shelf = ArtifactStore(store)
        current = shelf.current()
        table = Table(title=str(store))
        for column in ("", "kind", "version", "fingerprint", "published", "MB", "holds"):
            table.add_column(column)
        for kind in ("model", "index"):
            for manifest in shelf.published(kind):
                serving = current is not None and manifest.ref == getattr(current, kind)
                if isinstance(manifest, ModelManifest):
                    holds = "dual + cross" if manifest.has_reranker else "dual"
                else:
                    kinds = {
                        name: f" ({shard.kind})" for name, shard in manifest.shards.items() if shard.kind != "flat"
                    }
                    holds = ", ".join(f"{n:,} {name}{kinds.get(name, '')}" for name, n in manifest.collections.items())
                table.add_row(
                    "serving" if serving else "",
                    kind,
                    manifest.ref,
                    manifest.fingerprint[:12],
                    f"{manifest.created_at:%Y-%m-%d %H:%M}",
                    f"{sum(file.bytes for file in manifest.files.values()) / 1e6:.1f}",
                    holds,
                )
        console.print(table)


@app.command()
def verify(store: StoreOption = DEFAULT_STORE) -> None:
    """Check every byte of every published version."""
    with told_plainly(ArtifactError, OSError):
        shelf = ArtifactStore(store)
        for kind in ("model", "index"):
            for manifest in shelf.published(kind):
                shelf.verify(kind, Ref.parse(manifest.ref))
                console.print(f"{kind} {manifest.ref}: whole")


@app.command()
def activate(
    model: Annotated[str, typer.Argument(help="NAME/VERSION")],
    index: Annotated[str | None, typer.Argument(help="NAME/VERSION")] = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Serve this model with this index. Refused when another model built the index."""
    with told_plainly(ArtifactError, OSError):
        _tell_served(ArtifactStore(store).activate(Ref.parse(model), Ref.parse(index) if index else None))


@app.command()
def rollback(store: StoreOption = DEFAULT_STORE) -> None:
    """Serve what was served before."""
    with told_plainly(ArtifactError, OSError):
        _tell_served(ArtifactStore(store).rollback())


@app.command()
def prune(
    keep: Annotated[int, typer.Option(min=1, help="Newest versions of each name to keep.")] = 2,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Delete old versions. What is served, or was just before, always stays."""
    with told_plainly(ArtifactError, OSError):
        removed = ArtifactStore(store).prune(keep)
        console.print("\n".join(f"deleted {name}" for name in removed) or "nothing to delete")


def _tell_served(chosen: Deployment) -> None:
    console.print(
        f"serving model {chosen.model} " + (f"with index {chosen.index}" if chosen.index else "without an index")
    )
