"""``diptych index``: make the index that a model answers from."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, get_args

import typer

from diptych.cli.common import DEFAULT_STORE, ModelType, StoreOption, console, extra, told_plainly


class Kind(StrEnum):
    """How vectors are searched: exactly, by a graph, or by lists of whole vectors or of codes."""

    auto = "auto"
    flat = "flat"
    hnsw = "hnsw"
    ivf_flat = "ivf_flat"
    ivf_sq8 = "ivf_sq8"
    ivf_pq = "ivf_pq"


app = typer.Typer(help="Build indexes of photos and captions.", no_args_is_help=True)


class Engine(StrEnum):
    """What holds an index: files beside its manifest, or Milvus."""

    embedded = "embedded"
    milvus = "milvus"


class IndexType(StrEnum):
    """How Milvus searches: FLAT is exact."""

    flat = "FLAT"
    hnsw = "HNSW"
    auto = "AUTOINDEX"


@app.command()
def build(
    img_dir: Annotated[
        Path, typer.Option("--img-dir", "--img_dir", help="The folder of photos, or a data set's root.")
    ],
    cap_file: Annotated[
        Path | None,
        typer.Option("--cap-file", "--cap_file", help="Captions, when they lie elsewhere."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A published model, NAME/VERSION (default: the one being served).")
    ] = None,
    ckpt: Annotated[
        Path | None, typer.Option(help="Instead of --model: a model artifact's folder, published first.")
    ] = None,
    vocab: Annotated[Path | None, typer.Option(help="Checked against the model's own vocabulary.")] = None,
    index_dir: Annotated[
        Path, typer.Option("--index-dir", "--index_dir", help="Working folder; a build that was cut off goes on here.")
    ] = Path(".diptych/build"),
    batch_size: Annotated[
        int, typer.Option("--batch-size", "--batch_size", min=1, help="Photos embedded at once.")
    ] = 32,
    model_type: Annotated[
        ModelType, typer.Option("--model-type", "--model_type", help="cross makes sure that the model can rerank.")
    ] = ModelType.dual,
    name: Annotated[str, typer.Option(help="The index's name in the store.")] = "photos",
    kind: Annotated[Kind, typer.Option(help="How vectors are searched; auto goes by their number and --memory.")] = (
        Kind.auto
    ),
    memory: Annotated[str, typer.Option(help="What searching may hold in memory, as in 500MB or 4GB.")] = "4GB",
    recall: Annotated[
        float, typer.Option(min=0.5, max=1.0, help="Of the exact best 10, the share to be found; 1 is exact search.")
    ] = 0.95,
    activate: Annotated[bool, typer.Option(help="Serve the new index, with its model, at once.")] = True,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Embed photos and captions with a published model and publish the index. What is there already stays."""
    room = _bytes(memory)
    with extra("serve"):
        from shared.artifacts import ArtifactError, ArtifactStore, Ref
        from shared.collections import Sealing
        from shared.schemas import ShardKind
        from training import index_build as job
        from training.data.captioned import DataError
    with told_plainly(ArtifactError, DataError, OSError):
        shelf = ArtifactStore(store)
        kinds: dict[str, ShardKind] = {one: one for one in get_args(ShardKind)}
        if ckpt is not None:
            published = shelf.publish(ckpt)
            chosen = Ref.parse(published.ref)
        elif model is not None:
            chosen = Ref.parse(model)
        elif (current := shelf.current()) is not None:
            chosen = Ref.parse(current.model)
        else:
            raise ArtifactError("no model is published: give --ckpt FOLDER, or diptych publish one first")
        if model_type is ModelType.cross and not shelf.model(chosen).has_reranker:
            raise ArtifactError(f"model {chosen} has no reranker; use --model-type dual or a model trained with one")
        if vocab is not None:
            job.check_vocabulary(shelf.path("model", chosen), vocab)
        built = job.build(
            shelf,
            chosen,
            job.photos_in(img_dir, cap_file),
            index_dir / f"{name}-{shelf.model(chosen).fingerprint[:12]}",
            name=name,
            batch_size=batch_size,
            activate=activate,
            sealing=Sealing(kinds.get(kind.value), room, recall),
            console=console,
        )
        console.print(f"index {built} " + ("is being served" if activate else "is published"))


def _bytes(text: str) -> int:
    """Of ``500MB`` or ``4GB``. Raises :class:`typer.BadParameter`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([kMGT]?)i?B?", text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no amount of memory: write it as 500MB or 4GB")
    return int(float(found[1]) * 1000 ** " kMGT".index(found[2] or " "))


@app.command()
def migrate(
    ref: Annotated[str, typer.Argument(help="A published index, NAME/VERSION.")],
    to: Annotated[Engine, typer.Option(help="The engine to move it to.")],
    uri: Annotated[
        str | None,
        typer.Option(envvar="DIPTYCH_MILVUS_URI", help="Where Milvus is: http://HOST:19530, or a file NAME.db."),
    ] = None,
    index_type: Annotated[IndexType, typer.Option("--index-type", help="Milvus's index; FLAT is exact.")] = (
        IndexType.flat
    ),
    index_dir: Annotated[
        Path, typer.Option("--index-dir", "--index_dir", help="Working folder; what was cut off goes on here.")
    ] = Path(".diptych/build"),
    activate: Annotated[bool, typer.Option(help="Serve the moved index at once.")] = True,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Publish an index again in another engine, compared item by item. The same command goes on after a kill.

    Milvus's token is read from DIPTYCH_MILVUS_TOKEN, or the file of that name in DIPTYCH_SECRETS_DIR.
    """
    with extra("index,milvus"):
        from diptych import migrating as job
        from shared.artifacts import ArtifactError, ArtifactStore, Ref
        from shared.settings import MilvusSettings
    with told_plainly(ArtifactError, ValueError, OSError):
        access = MilvusSettings() if uri is None else MilvusSettings(milvus_uri=uri)
        move = job.Move(ArtifactStore(store), Ref.parse(ref), access, index_dir, console)
        if to is Engine.milvus:
            if uri is None:
                raise ArtifactError("say where Milvus is: --uri http://HOST:19530, or --uri FOLDER/NAME.db")
            moved = move.to_milvus(uri, index_type.value)
        else:
            moved = move.to_files()
        if activate:
            move.activate(moved)
        console.print(f"index {moved} " + ("is being served" if activate else "is published"))
