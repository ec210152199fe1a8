"""The three kinds of work, each in a lane of its own, so that none waits behind another's queue."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from services.encoder.batcher import Batcher
from services.encoder.settings import EncoderSettings
from shared.engines import Engine
from shared.tokens import TokenFeatures

Float32 = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
Embedding = tuple[Float32, TokenFeatures]
Pairs = tuple[list[TokenFeatures], list[TokenFeatures]]


class Lanes:
    """Work is grouped by engine: a batch never mixes model versions."""

    def __init__(self, settings: EncoderSettings) -> None:
        limits: dict[str, Any] = {
            "max_batch": settings.max_batch,
            "max_delay": settings.max_delay_ms / 1000,
            "max_queue": settings.max_queue,
        }
        self._text: Batcher[str, Embedding] = Batcher("text", _embed_texts, **limits)
        self._image: Batcher[Pixels, Embedding] = Batcher("image", _embed_images, **limits)
        # A request's candidates are one item: they are a batch already.
        self._rerank: Batcher[Pairs, Float32] = Batcher("rerank", _rerank, **{**limits, "max_batch": 1})

    async def run(self) -> None:
        """Work until cancelled."""
        await asyncio.gather(self._text.run(), self._image.run(), self._rerank.run())

    async def embed_texts(self, engine: Engine, texts: Sequence[str]) -> list[Embedding]:
        return await self._text.submit(engine, texts)

    async def embed_image(self, engine: Engine, pixels: Pixels) -> list[Embedding]:
        return await self._image.submit(engine, [pixels])

    async def rerank(self, engine: Engine, texts: list[TokenFeatures], images: list[TokenFeatures]) -> Float32:
        """Logits (B,) of B pairs."""
        (logits,) = await self._rerank.submit(engine, [(texts, images)])
        return logits


def _embed_texts(engine: object, items: list[str]) -> Sequence[Embedding]:
    out = cast(Engine, engine).embed_texts(items)
    return list(zip(out.embedding, out.tokens, strict=True))


def _embed_images(engine: object, items: list[Pixels]) -> Sequence[Embedding]:
    out = cast(Engine, engine).embed_images(np.stack(items))
    return list(zip(out.embedding, out.tokens, strict=True))


def _rerank(engine: object, items: list[Pairs]) -> Sequence[Float32]:
    return [cast(Engine, engine).rerank(*pairs) for pairs in items]
