"""The encoder service: texts and images to vectors and tokens, and matching logits for pairs of tokens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Annotated, Literal

import numpy as np
from fastapi import FastAPI, Query, Request, Response
from pydantic import BaseModel, Field

from services.encoder.lanes import Embedding, Lanes
from services.encoder.settings import EncoderSettings
from shared import tokens, wire
from shared.artifacts import ArtifactStore, Ref
from shared.engines import Engine, images, open_engine, texts
from shared.http import create_app, run
from shared.problems import Problem
from shared.schemas import EncoderStatus, ServedModel
from shared.watch import VersionWatcher

MISSING = "no model is published in {store}: run diptych publish (or diptych up)"

ModelRef = Annotated[str | None, Query(description="name/version; the current one when left out")]


class TextRequest(BaseModel):
    texts: list[str] = Field(min_length=1, examples=[["a dog running on the beach"]])
    model: str | None = Field(None, description="name/version; the current one when left out")
    tokens: bool = Field(False, description="Also answer with compact token features.")


def create(settings: EncoderSettings) -> FastAPI:
    """The application; it follows the store for as long as it runs."""
    store = ArtifactStore(settings.store)
    watcher: VersionWatcher[Engine] = VersionWatcher(
        store,
        lambda deployment: deployment.model,
        lambda deployment: open_engine(
            store.path("model", Ref.parse(deployment.model)),
            engine=settings.engine,
            device=settings.device,
            threads=settings.threads,
        ),
        missing=MISSING.format(store=settings.store),
        poll_seconds=settings.poll_seconds,
        retire_seconds=settings.retire_seconds,
    )
    lanes = Lanes(settings)
    decoders = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode")
    decoding = asyncio.Semaphore(settings.max_queue)

    async def problems() -> list[str]:
        return [watcher.problem or watcher.missing] if watcher.current_ref is None else []

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        background = [asyncio.create_task(work) for work in (watcher.run(), lanes.run())]
        yield
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        decoders.shutdown(wait=False, cancel_futures=True)

    app = create_app("encoder", problems, max_body_bytes=settings.max_body_bytes, lifespan=lifespan)

    @app.get("/status", summary="What is loaded")
    async def status() -> EncoderStatus:
        engines = watcher.loaded.values()
        return EncoderStatus(
            engine=settings.engine,
            current=watcher.current_ref,
            models=[_served(engine) for engine in engines],
            problem=watcher.problem,
        )

    @app.post("/embed/text", summary="Texts to vectors", response_class=Response)
    async def embed_text(request: TextRequest) -> Response:
        if len(request.texts) > settings.max_texts:
            raise Problem(
                "invalid-request", f"{len(request.texts)} texts in one request; the limit is {settings.max_texts}"
            )
        ref, engine = watcher.get(request.model)
        try:
            for text in request.texts:
                texts.check(text, settings.max_text_chars)
        except texts.TextError as error:
            raise Problem("invalid-request", str(error)) from error
        return _message(ref, engine, await lanes.embed_texts(engine, request.texts), request.tokens)

    @app.post("/embed/image", summary="An image file to a vector", response_class=Response)
    async def embed_image(
        request: Request, model: ModelRef = None, with_tokens: Annotated[bool, Query(alias="tokens")] = False
    ) -> Response:
        ref, engine = watcher.get(model)
        data = await request.body()
        if decoding.locked():
            raise Problem("overloaded", "too many images wait to be decoded; try again", retry_after=1)
        async with decoding:
            try:
                found = await asyncio.get_running_loop().run_in_executor(
                    decoders, lambda: images.pixels(data, engine.manifest.preprocessing, max_pixels=settings.max_pixels)
                )
            except images.ImageError as error:
                raise Problem(error.slug, str(error)) from error
        return _message(ref, engine, await lanes.embed_image(engine, found), with_tokens)

    @app.post("/rerank", summary="Matching logits of a query's candidates", response_class=Response)
    async def rerank(
        request: Request,
        query: Annotated[Literal["text", "image"], Query(description="What the query is; candidates are the other.")],
        model: ModelRef = None,
    ) -> Response:
        ref, engine = watcher.get(model)
        if not engine.manifest.has_reranker:
            raise Problem("no-reranker", f"model {ref} was published without a reranker; use model_type=dual")
        try:
            tensors, _ = wire.unpack(await request.body())
            dim = engine.manifest.token_dim
            asked, candidates = tokens.from_tensors(tensors, "query_", dim), tokens.from_tensors(tensors, dim=dim)
        except wire.WireError as error:
            raise Problem("invalid-request", str(error)) from error
        if len(asked) != 1 or not 1 <= len(candidates) <= settings.max_candidates:
            raise Problem(
                "invalid-request",
                f"{len(asked)} queries with {len(candidates)} candidates; a request has one query and 1 to "
                f"{settings.max_candidates} candidates",
            )
        repeated = asked * len(candidates)
        pairs = (repeated, candidates) if query == "text" else (candidates, repeated)
        logits = await lanes.rerank(engine, *pairs)
        return Response(wire.pack({"logits": logits}, _about(ref, engine)), media_type=wire.MEDIA_TYPE)

    return app


def main() -> None:
    """Serve with settings from the environment."""
    settings = EncoderSettings()
    run("encoder", create(settings), settings)


def _message(ref: str, engine: Engine, embedded: Sequence[Embedding], with_tokens: bool) -> Response:
    tensors: dict[str, wire.Array] = {"embedding": np.stack([vector for vector, _ in embedded])}
    if with_tokens:
        tensors |= tokens.to_tensors([features for _, features in embedded])
    return Response(wire.pack(tensors, _about(ref, engine)), media_type=wire.MEDIA_TYPE)


def _about(ref: str, engine: Engine) -> dict[str, str]:
    return {"model": ref, "fingerprint": engine.manifest.fingerprint}


def _served(engine: Engine) -> ServedModel:
    manifest = engine.manifest
    return ServedModel(
        ref=manifest.ref,
        fingerprint=manifest.fingerprint,
        embedding_dim=manifest.embedding_dim,
        token_dim=manifest.token_dim,
        has_reranker=manifest.has_reranker,
        scoring=manifest.scoring,
        metrics=manifest.metrics,
    )
