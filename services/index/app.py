"""The index service: answers nearest-neighbour queries over the published index, and hands out its photos."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import faiss
import numpy as np
from fastapi import FastAPI, Query, Request, Response
from prometheus_client import Gauge, Histogram

from services.index.batches import Batches
from services.index.changes import change_routes
from services.index.embeddings import embedding_routes
from services.index.photos import IndexRef, photo_routes
from services.index.searching import find
from services.index.settings import IndexSettings
from services.index.writer import Writer, keep_up
from shared import wire
from shared.artifacts import ArtifactError, ArtifactStore, Deployment, Ref
from shared.collections import LIBRARIES, IndexDirectory
from shared.docs import gives, takes
from shared.filters import Filter
from shared.http import ANY_PROBLEM, create_app, problem_response, run
from shared.problems import Problem
from shared.schemas import IndexStatus, ServedIndex
from shared.watch import VersionWatcher

ITEMS = Gauge("diptych_index_items", "Items of the index that is being served.", ["collection"])
PENDING = Gauge("diptych_index_pending_images", "Photos that the model of the index has not seen yet.")
STORE_FREE = Gauge("diptych_index_store_free_bytes", "Room left on the disk that holds indexes and photos put in.")
STORE_SIZE = Gauge("diptych_index_store_size_bytes", "Size of that disk.")
SEARCH = Histogram(
    "diptych_index_search_seconds",
    "Time of one search, reading its items included.",
    ["collection"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1),
)
MISSING = "nothing is indexed in {store}: run diptych index build (or diptych up)"

CollectionName = Literal["images", "captions"]


def create(settings: IndexSettings) -> FastAPI:
    """The application; it follows the store for as long as it runs."""
    if settings.threads is not None:
        faiss.omp_set_num_threads(settings.threads)
    store = ArtifactStore(settings.store)
    writer = Writer(settings.store / LIBRARIES, max_waiting=settings.max_changes)
    batches = Batches()
    watcher: VersionWatcher[IndexDirectory] = VersionWatcher(
        store,
        lambda deployment: deployment.index,
        lambda deployment: _load(store, deployment, settings, writer),
        missing=MISSING.format(store=settings.store),
        poll_seconds=settings.poll_seconds,
        retire_seconds=settings.retire_seconds,
    )

    async def problems() -> list[str]:
        return [watcher.problem or watcher.missing] if watcher.current_ref is None else []

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(work) for work in (watcher.run(), keep_up(watcher, settings.poll_seconds))]
        async with writer.running():
            yield
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    app = create_app(
        "index",
        problems,
        max_body_bytes=settings.max_body_bytes,
        internal_token=settings.internal_token,
        lifespan=lifespan,
        responses=ANY_PROBLEM,
    )
    _measure(watcher, settings.store)

    @app.exception_handler(ArtifactError)
    async def engine_away(_request: Request, error: ArtifactError) -> Response:
        return problem_response(Problem("neighbour-unavailable", str(error), retry_after=5))

    @app.get("/status", summary="What is loaded")
    async def status() -> IndexStatus:
        served = [_served(index) for index in watcher.loaded.values()]
        return IndexStatus(current=watcher.current_ref, indexes=served, problem=watcher.problem)

    @app.post(
        "/search",
        summary="The items nearest to each query",
        response_class=Response,
        responses=gives(wire.MEDIA_TYPE),
        openapi_extra=takes(wire.MEDIA_TYPE),
    )
    async def search(
        request: Request,
        collection: CollectionName,
        k: Annotated[int, Query(ge=1)],
        index: IndexRef = None,
        with_tokens: Annotated[bool, Query(alias="tokens")] = False,
        tag: Annotated[list[str] | None, Query(description="Only items that have all these tags.")] = None,
        where: Annotated[
            str | None,
            Query(alias="filter", description='What the photo\'s metadata must say: {"year": {"gte": 2020}}'),
        ] = None,
    ) -> Response:
        ref, found = watcher.get(index)
        try:
            tensors, _ = wire.unpack(await request.body())
            queries = wire.require(tensors, "queries", np.float32, None, found.manifest.embedding_dim)
        except wire.WireError as error:
            raise Problem("invalid-request", str(error)) from error
        _check_size(len(queries), k, settings)
        searched = found.collection(collection)
        with SEARCH.labels(collection).time():
            try:
                fields = None if where is None else Filter.parse(where)
                scores, tensors, items = await find(batches, searched, queries, k, tag or (), fields, with_tokens)
            except ValueError as error:
                raise Problem("invalid-request", str(error)) from error
        meta = {"index": ref, "fingerprint": found.manifest.fingerprint, "items": items}
        return Response(wire.pack({"scores": scores, **tensors}, meta), media_type=wire.MEDIA_TYPE)

    @app.get("/collections/{collection}/items/{item_id}", summary="What is stored about an item")
    async def item(collection: CollectionName, item_id: str, index: IndexRef = None) -> dict[str, Any]:
        _, found = watcher.get(index)
        try:
            about = await asyncio.to_thread(_item, found, collection, item_id)
        except KeyError as error:
            raise Problem("not-found", f"{collection} has no item {item_id!r}") from error
        return {"id": item_id, **about}

    app.include_router(photo_routes(watcher))
    app.include_router(change_routes(watcher, writer, batches))
    app.include_router(embedding_routes(watcher))
    return app


def main() -> None:
    """Serve with settings from the environment."""
    settings = IndexSettings()
    run("index", create(settings), settings)


def _check_size(queries: int, k: int, settings: IndexSettings) -> None:
    if k > settings.max_k:
        raise Problem("invalid-request", f"query.k: {k} results are over the limit of {settings.max_k} a query")
    if queries * k > settings.max_results:
        raise Problem(
            "invalid-request",
            f"{queries} queries for {k} results each are over the limit of {settings.max_results} results; "
            "ask for less at a time",
        )


def _load(store: ArtifactStore, deployment: Deployment, settings: IndexSettings, writer: Writer) -> IndexDirectory:
    assert deployment.index is not None
    ref = Ref.parse(deployment.index)
    loaded = IndexDirectory.open(
        store.path("index", ref), photo_root=settings.photos, library=writer.reader(ref.name), milvus=settings
    )
    if loaded.manifest.fingerprint != deployment.fingerprint:
        raise ArtifactError(
            f"it was built by model {loaded.manifest.model} (fingerprint {loaded.manifest.fingerprint[:12]}), but "
            f"the store points to model {deployment.model} ({deployment.fingerprint[:12]}): build an index with that "
            "model, or roll back"
        )
    writer.follow(loaded)
    return loaded


def _item(index: IndexDirectory, collection: str, item_id: str) -> dict[str, Any]:
    """Raises KeyError, also for an item of a photo that was removed."""
    about = index.collection(collection).metadata([item_id])[0]
    index.about(about["image_id"] if collection == "captions" else item_id)
    return about


def _served(index: IndexDirectory) -> ServedIndex:
    manifest = index.manifest
    return ServedIndex(
        ref=manifest.ref,
        fingerprint=manifest.fingerprint,
        embedding_dim=manifest.embedding_dim,
        collections={"images": len(index.images), "captions": len(index.captions)},
        revision=index.revision,
        pending=len(index.pending),
        shards=manifest.shards,
    )


def _measure(watcher: VersionWatcher[IndexDirectory], store: Path) -> None:
    for name in ("images", "captions"):
        ITEMS.labels(name).set_function(_counter(watcher, name))
    PENDING.set_function(lambda: len(watcher.get(None)[1].pending) if watcher.current_ref else 0)
    STORE_FREE.set_function(lambda: _disk(store).free)
    STORE_SIZE.set_function(lambda: _disk(store).total)


def _disk(store: Path) -> Any:
    """How full the disk is, also before there is a store on it."""
    return shutil.disk_usage(next(folder for folder in (store, *store.absolute().parents) if folder.exists()))


def _counter(watcher: VersionWatcher[IndexDirectory], name: str) -> Callable[[], float]:
    def count() -> float:
        return float(len(watcher.get(None)[1].collection(name))) if watcher.current_ref else 0.0

    return count
