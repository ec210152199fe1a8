"""What the index's model made of items, so that a stored photo can be asked with and need not be embedded again."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from services.index.photos import IndexRef
from shared import tokens, wire
from shared.collections import IndexDirectory, Item
from shared.problems import Problem
from shared.watch import VersionWatcher


class Wanted(BaseModel):
    ids: list[str] = Field(min_length=1, max_length=1000)


def embedding_routes(watcher: VersionWatcher[IndexDirectory]) -> APIRouter:
    router = APIRouter()

    @router.post("/collections/{collection}/embeddings", summary="Vectors of items, by id", response_class=Response)
    async def embeddings(
        collection: Literal["images", "captions"],
        wanted: Wanted,
        index: IndexRef = None,
        with_tokens: Annotated[bool, Query(alias="tokens")] = False,
    ) -> Response:
        """The message that the encoder answers for the same items, in the order of the ids."""
        ref, found = watcher.get(index)
        try:
            items = await asyncio.to_thread(found.items, collection, wanted.ids)
        except KeyError as error:
            raise Problem("not-found", f"{collection} has no item {error.args[0]!r}") from error
        return Response(_message(ref, found.manifest.fingerprint, items, with_tokens), media_type=wire.MEDIA_TYPE)

    return router


def _message(ref: str, fingerprint: str, items: list[Item], with_tokens: bool) -> bytes:
    tensors: dict[str, wire.Array] = {"embedding": np.stack([item.vector for item in items])}
    if with_tokens:
        tensors |= tokens.to_tensors([item.tokens for item in items])
    return wire.pack(tensors, {"index": ref, "fingerprint": fingerprint})
