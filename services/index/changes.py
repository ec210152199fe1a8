"""Routes that change a collection."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.index.batches import Batches
from services.index.photos import ImageId, IndexRef, known
from services.index.writer import Writer
from shared import tokens, wire
from shared.collections import IndexDirectory, Item
from shared.collections.library import Embedded, Photo, Put, Remove
from shared.docs import takes
from shared.problems import Problem
from shared.watch import VersionWatcher

# By the shipped model on Flickr8k's dev photos: saved again at quality 50, or cut by 4% on all sides, all of 40 copies
# are at least this alike; of the 1,000 photos none is so alike to another.
_NEAR = 0.97


class About(BaseModel):
    """What comes with a photo's bytes and what a model made of them."""

    model_config = ConfigDict(extra="forbid")

    fingerprint: str
    name: str = Field(max_length=255)
    captions: list[str] = Field(default_factory=list, max_length=100)
    tags: list[str] = Field(default_factory=list, max_length=100)
    metadata: dict[str, Any] = Field(default_factory=dict)


def change_routes(watcher: VersionWatcher[IndexDirectory], writer: Writer, batches: Batches) -> APIRouter:
    router = APIRouter()

    body = takes(wire.MEDIA_TYPE)

    @router.put("/images/{image_id}", summary="Add a photo, or put another in its place", openapi_extra=body)
    async def put(request: Request, image_id: ImageId, index: IndexRef = None) -> dict[str, Any]:
        ref, found = watcher.get(index)
        fingerprint = found.manifest.fingerprint
        try:
            tensors, meta = wire.unpack(await request.body())
            said = About.model_validate(meta)
            data = wire.require(tensors, "photo", np.uint8, None).tobytes()
            made = _items(image_id, said, len(data), tensors, found)
        except (wire.WireError, ValidationError, ValueError) as error:
            raise Problem("invalid-request", str(error)) from error
        if said.fingerprint != fingerprint:
            raise Problem("unknown-version", f"{ref} is of model {fingerprint[:12]}, not of {said.fingerprint[:12]}")
        kept = said.model_dump(exclude={"fingerprint"}) | {"bytes": len(data)}
        new = Put(image_id, data, kept, fingerprint, made)
        before = await asyncio.to_thread(_before, found, new)
        cosines, ids = await batches.search(found.images, made["images"][0].vector[None], 5)
        alike = _duplicates(new, before.same, dict(zip(ids[0], map(float, cosines[0]), strict=True)))
        answer = {"id": image_id, "duplicates": alike, "index": ref}
        if before.photo == Photo(image_id, new.sha256, kept) and image_id not in found.pending:
            return {**answer, "status": "unchanged", "revision": found.revision}
        revision = await writer.submit(found.manifest.name, new)
        return {**answer, "status": "replaced" if before.known else "created", "revision": revision}

    @router.put(
        "/images/{image_id}/embedding",
        summary="What this index's model made of a photo that waits for it",
        openapi_extra=body,
    )
    async def embed(
        request: Request, image_id: ImageId, seq: Annotated[int, Query(ge=1)], index: IndexRef = None
    ) -> dict[str, Any]:
        _, found = watcher.get(index)
        kept = await known(found, image_id)
        try:
            tensors, meta = wire.unpack(await request.body())
            said = About(fingerprint=str(meta.get("fingerprint")), **{key: kept[key] for key in _KEPT})
            made = _items(image_id, said, int(kept["bytes"]), tensors, found)
        except (wire.WireError, ValidationError, ValueError) as error:
            raise Problem("invalid-request", str(error)) from error
        if said.fingerprint != found.manifest.fingerprint:
            raise Problem("unknown-version", f"{found.manifest.ref} is of another model than {said.fingerprint[:12]}")
        change = Embedded(image_id, seq, said.fingerprint, made)
        revision = await writer.submit(found.manifest.name, change)
        return {"id": image_id, "revision": revision}

    @router.delete("/images/{image_id}", summary="Remove a photo and its captions")
    async def remove(image_id: ImageId, index: IndexRef = None) -> dict[str, Any]:
        _, found = watcher.get(index)
        await known(found, image_id)
        revision = await writer.submit(found.manifest.name, Remove(image_id))
        return {"id": image_id, "revision": found.revision if revision is None else revision}

    return router


_KEPT = ("name", "captions", "tags", "metadata")


def _items(
    image_id: str, said: About, size: int, tensors: dict[str, wire.Array], index: IndexDirectory
) -> dict[str, list[Item]]:
    """The photo's item and its captions'. Raises :class:`wire.WireError` or ValueError."""
    dim, token_dim = index.manifest.embedding_dim, index.manifest.token_dim
    vector = wire.require(tensors, "embedding", np.float32, 1, dim)
    (features,) = tokens.from_tensors(tensors, dim=token_dim)
    about = {"name": said.name, "bytes": size, "tags": said.tags, "metadata": said.metadata}
    made = {"images": [Item(image_id, about, vector[0], features)], "captions": list[Item]()}
    if said.captions:
        vectors = wire.require(tensors, "captions_embedding", np.float32, len(said.captions), dim)
        words = tokens.from_tensors(tensors, "captions_", token_dim)
        for n, (caption, one, feature) in enumerate(zip(said.captions, vectors, words, strict=True)):
            made["captions"].append(
                Item(f"{image_id}-{n}", {"caption": caption, "image_id": image_id, "tags": said.tags}, one, feature)
            )
    for name, some in made.items():
        for item in some:
            index.collection(name).check(item)
    return made


@dataclass(frozen=True)
class _Before:
    """Whether a photo was ``known`` under an id, the library's ``photo`` if it was there, and the ids of the library's
    with the ``same`` bytes as the new one."""

    known: bool
    photo: Photo | None
    same: list[str]


def _before(index: IndexDirectory, new: Put) -> _Before:
    library = index.library
    same = [] if library is None else library.same_content(new.sha256)
    try:
        index.about(new.id)
        return _Before(True, None if library is None else library.photo(new.id), same)
    except KeyError:
        return _Before(False, None, same)


def _duplicates(new: Put, same: Sequence[str], cosines: Mapping[str, float]) -> list[dict[str, Any]]:
    """Other photos with the same bytes, and those of ``cosines`` that look the same."""
    alike = {found: cosine for found, cosine in cosines.items() if cosine >= _NEAR}
    exact = {found for found in {*same, *alike} if found in same or new.sha256.startswith(found)}
    return [
        {"id": found, "kind": "exact" if found in exact else "near", "similarity": round(alike.get(found, 1.0), 4)}
        for found in sorted({*exact, *alike} - {new.id}, key=lambda one: -alike.get(one, 1.0))
    ]
