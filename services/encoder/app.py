"""The encoder service: texts and images to vectors and tokens, and matching logits for pairs of tokens."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Literal

import numpy as np
from fastapi import Depends, FastAPI, Header, Query, Request, Response
from pydantic import BaseModel, Field

from services.encoder.lanes import Embedding, Lanes, Pairs
from services.encoder.settings import EncoderSettings
from shared import tokens, wire
from shared.artifacts import ArtifactStore, Ref
from shared.docs import gives, takes
from shared.engines import Engine, TokensError, images, open_engine, texts
from shared.hangup import while_connected
from shared.http import ANY_PROBLEM, DEADLINE_HEADER, create_app, run
from shared.problems import Problem
from shared.schemas import EncoderStatus, ServedModel
from shared.watch import VersionWatcher

MISSING = "no model is published in {store}: run diptych publish (or diptych up)"

TENSORS = gives(wire.MEDIA_TYPE)
MAX_WAIT_MS = 3_600_000


async def _until(
    wait_ms: Annotated[
        int | None,
        Header(
            alias=DEADLINE_HEADER,
            ge=0,
            le=MAX_WAIT_MS,
            description="Milliseconds that the caller waits; what has not begun by then is not begun.",
        ),
    ] = None,
) -> float:
    """The deadline by the event loop's clock. The time that the request took to arrive is not known, nor counted."""
    return math.inf if wait_ms is None else asyncio.get_running_loop().time() + wait_ms / 1000


Until = Annotated[float, Depends(_until)]
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
    uploads = asyncio.Semaphore(settings.max_image_queue)

    async def problems() -> list[str]:
        return [watcher.problem or watcher.missing] if watcher.current_ref is None else []

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(watcher.run())
        async with lanes.running():
            yield
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    app = create_app(
        "encoder",
        problems,
        max_body_bytes=settings.max_body_bytes,
        internal_token=settings.internal_token,
        lifespan=lifespan,
        responses=ANY_PROBLEM,
    )

    @app.get("/status", summary="What is loaded")
    async def status() -> EncoderStatus:
        engines = watcher.loaded.values()
        return EncoderStatus(
            engine=next((engine.runtime for engine in engines), settings.engine),
            current=watcher.current_ref,
            models=[_served(engine) for engine in engines],
            problem=watcher.problem,
        )

    @app.post("/embed/text", summary="Texts to vectors", response_class=Response, responses=TENSORS)
    async def embed_text(request: Request, asked: TextRequest, until: Until) -> Response:
        if len(asked.texts) > settings.max_texts:
            raise Problem(
                "invalid-request", f"{len(asked.texts)} texts in one request; the limit is {settings.max_texts}"
            )
        ref, engine = watcher.get(asked.model)
        try:
            for text in asked.texts:
                texts.check(text, settings.max_text_chars)
        except texts.TextError as error:
            raise Problem("invalid-request", str(error)) from error
        embedded = await while_connected(request, lanes.embed_texts(engine, asked.texts, until))
        return _message(ref, engine, embedded, asked.tokens)

    @app.post(
        "/embed/image",
        summary="An image file to a vector",
        response_class=Response,
        responses=TENSORS,
        openapi_extra=takes("application/octet-stream"),
    )
    async def embed_image(
        request: Request,
        until: Until,
        model: ModelRef = None,
        with_tokens: Annotated[bool, Query(alias="tokens")] = False,
    ) -> Response:
        ref, engine = watcher.get(model)
        if uploads.locked():
            raise Problem(
                "overloaded", f"{settings.max_image_queue} images are being worked on already; try again", retry_after=1
            )
        async with uploads:
            try:
                embedded = await while_connected(request, lanes.embed_image(engine, await request.body(), until))
            except images.ImageError as error:
                raise Problem(error.slug, str(error)) from error
        return _message(ref, engine, embedded, with_tokens)

    @app.post(
        "/rerank",
        summary="Matching logits of a query's candidates",
        response_class=Response,
        responses=TENSORS,
        openapi_extra=takes(wire.MEDIA_TYPE),
    )
    async def rerank(
        request: Request,
        until: Until,
        query: Annotated[Literal["text", "image"], Query(description="What the query is; candidates are the other.")],
        model: ModelRef = None,
    ) -> Response:
        ref, engine = watcher.get(model)
        if not engine.manifest.has_reranker:
            raise Problem("no-reranker", f"model {ref} was published without a reranker; use model_type=dual")
        try:
            pairs = _pairs(await request.body(), query, engine.manifest.token_dim, settings.max_candidates)
            logits = await while_connected(request, lanes.rerank(engine, *pairs, until))
        except (wire.WireError, TokensError) as error:
            raise Problem("invalid-request", str(error)) from error
        return Response(wire.pack({"logits": logits}, _about(ref, engine)), media_type=wire.MEDIA_TYPE)

    return app


def main() -> None:
    """Serve with settings from the environment."""
    settings = EncoderSettings()
    run("encoder", create(settings), settings)


def _pairs(body: bytes, query: Literal["text", "image"], dim: int, limit: int) -> Pairs:
    """The query's tokens, once for each candidate, and the candidates': texts first. Raises :class:`wire.WireError`."""
    tensors, _ = wire.unpack(body)
    asked, candidates = tokens.from_tensors(tensors, "query_", dim), tokens.from_tensors(tensors, dim=dim)
    if len(asked) != 1 or not 1 <= len(candidates) <= limit:
        raise wire.WireError(
            f"{len(asked)} queries with {len(candidates)} candidates; a request has one query and 1 to {limit} others"
        )
    repeated = asked * len(candidates)
    return (repeated, candidates) if query == "text" else (candidates, repeated)


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
