"""Changing the collection: what is put in is embedded here and stored by the index service."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from services.gateway.encoder import Encoder
from services.gateway.neighbours import Index
from services.gateway.pairing import Pair, Pairing
from services.gateway.photos import check_id
from shared import tokens, wire
from shared.problems import Problem
from shared.schemas import ChangedImage, ImagesPage, StoredImage
from shared.telemetry import log


@dataclass(frozen=True)
class NewImage:
    """A photo's file and what is said of it. Without an ``id`` its content names it."""

    data: bytes
    name: str
    id: str | None = None
    captions: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def about(self) -> dict[str, Any]:
        return {"name": self.name, "captions": self.captions, "tags": self.tags, "metadata": self.metadata}


class Collection:
    def __init__(self, encoder: Encoder, index: Index, pairing: Pairing) -> None:
        self._encoder = encoder
        self._index = index
        self._pairing = pairing

    async def put(self, image: NewImage) -> ChangedImage:
        """Add a photo, or put it in the place of the one with its id.

        Raises :class:`Problem`; nothing has changed then, unless a neighbour went away while it was asked: to ask again
        with the same id does no harm.
        """
        image_id = image.id if image.id is not None else hashlib.sha256(image.data).hexdigest()[:16]
        _check_new_id(image_id)

        async def put(pair: Pair) -> tuple[ChangedImage, int]:
            made = await self._made(image.data, image.captions, pair)
            made["photo"] = np.frombuffer(image.data, np.uint8)
            message = wire.pack(made, {"fingerprint": pair.model.fingerprint, **image.about})
            return await self._index.put(image_id, message, pair.index.ref)

        changed, revision = await self._pairing.run(put)
        self._pairing.changed(changed.index_version, revision)
        return changed

    async def remove(self, image_id: str) -> None:
        """Raises :class:`Problem` ``not-found``."""
        check_id(image_id)

        async def remove(pair: Pair) -> None:
            self._pairing.changed(pair.index.ref, await self._index.remove(image_id, pair.index.ref))

        await self._pairing.run(remove)

    async def about(self, image_id: str) -> StoredImage:
        """Raises :class:`Problem` ``not-found``."""
        check_id(image_id)
        return await self._pairing.run(lambda pair: self._index.about(image_id, pair.index.ref))

    async def page(self, after: str, limit: int) -> ImagesPage:
        """Photos by id, those that follow ``after``."""
        images = await self._pairing.run(lambda pair: self._index.page(after, limit, pair.index.ref))
        return ImagesPage(images=images, next=images[-1].id if len(images) == limit else None)

    async def follow(self, poll_seconds: float) -> None:
        """Show the current model the photos that wait for it, until cancelled: those that were put in while another one
        was served, after its index was built."""
        while True:
            await asyncio.sleep(poll_seconds)
            pair = self._pairing.current
            if pair is not None and pair.index.pending:
                try:
                    await self._catch_up(pair)
                except Problem as problem:
                    log.warning("photos wait for the model", index=pair.index.ref, reason=problem.detail)

    async def _catch_up(self, pair: Pair) -> None:
        ref = pair.index.ref
        for image_id, seq in await self._index.pending(ref):
            try:
                about, photo = await self._index.about(image_id, ref), await self._index.photo(image_id, ref)
                made = await self._made(photo.data, about.captions, pair)
                message = wire.pack(made, {"fingerprint": pair.model.fingerprint})
                self._pairing.changed(ref, await self._index.put_embedding(image_id, seq, message, ref))
            except Problem as problem:
                if problem.slug not in ("not-found", "invalid-image", "image-too-large"):
                    raise
                log.warning("photo left out", image=image_id, reason=problem.detail)

    async def _made(self, data: bytes, captions: list[str], pair: Pair) -> dict[str, wire.Array]:
        """Vectors and tokens of a photo and its captions."""
        image = self._encoder.embed(data, pair.model, with_tokens=True)
        if not captions:
            words: dict[str, wire.Array] = {}
            embedding = await image
        else:
            embedding, words = await asyncio.gather(image, self._encoder.embed_texts(captions, pair.model))
        assert embedding.tokens is not None
        return {
            "embedding": embedding.vector[None],
            **tokens.to_tensors([embedding.tokens]),
            **{f"captions_{name}": array for name, array in words.items()},
        }


def _check_new_id(image_id: str) -> None:
    try:
        check_id(image_id)
    except Problem as problem:
        raise Problem(
            "invalid-request",
            f"id: {image_id[:80]!r} cannot be an id: up to 128 letters, digits, dots, dashes and underscores, and no "
            "dot first",
        ) from problem
