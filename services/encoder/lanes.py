"""The three kinds of work, each in a lane of its own, so that none waits behind another's queue."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import cast

import numpy as np
import numpy.typing as npt

from services.encoder.batcher import Batcher, too_late
from services.encoder.settings import EncoderSettings
from shared.engines import Engine, images
from shared.tokens import TokenFeatures

Float32 = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
Embedding = tuple[Float32, TokenFeatures]
Pairs = tuple[list[TokenFeatures], list[TokenFeatures]]


class Lanes:
    """Work is grouped by engine: a batch never mixes model versions."""

    def __init__(self, settings: EncoderSettings) -> None:
        delay = settings.max_delay_ms / 1000
        self._text: Batcher[str, Embedding] = Batcher(
            "text",
            _embed_texts,
            max_batch=settings.max_text_batch,
            max_delay=delay,
            max_queue=settings.max_text_queue,
            workers=settings.model_calls,
            length=len,
        )
        self._image: Batcher[Pixels, Embedding] = Batcher(
            "image",
            _embed_images,
            max_batch=settings.max_image_batch,
            max_delay=delay,
            max_queue=settings.max_image_queue,
            workers=settings.model_calls,
        )
        # A request's candidates are one item: they are a batch already.
        self._rerank: Batcher[Pairs, Float32] = Batcher(
            "rerank", _rerank, max_batch=1, max_delay=0, max_queue=settings.max_rerank_queue
        )
        self._decoders = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode")
        self._max_pixels = settings.max_pixels

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Work while the context is open; on the way out, finish what was accepted."""
        async with self._text.running(), self._image.running(), self._rerank.running():
            yield
        self._decoders.shutdown(wait=False, cancel_futures=True)

    async def embed_texts(self, engine: Engine, texts: Sequence[str], until: float = math.inf) -> list[Embedding]:
        """``until``: see :meth:`Batcher.submit`."""
        return await self._text.submit(engine, texts, until)

    async def embed_image(self, engine: Engine, data: bytes, until: float = math.inf) -> list[Embedding]:
        """Of an image file. Raises :class:`shared.engines.images.ImageError`."""
        loop = asyncio.get_running_loop()

        def decode() -> Pixels:
            if loop.time() >= until:
                raise too_late()
            return images.pixels(data, engine.manifest.preprocessing, max_pixels=self._max_pixels)

        pixels = await loop.run_in_executor(self._decoders, decode)
        return await self._image.submit(engine, [pixels], until)

    async def rerank(
        self, engine: Engine, texts: list[TokenFeatures], images: list[TokenFeatures], until: float = math.inf
    ) -> Float32:
        """Logits (B,) of B pairs. Raises :class:`shared.engines.TokensError`."""
        (logits,) = await self._rerank.submit(engine, [(texts, images)], until)
        return logits


def _embed_texts(engine: object, items: list[str]) -> Sequence[Embedding]:
    out = cast(Engine, engine).embed_texts(items)
    return list(zip(out.embedding, out.tokens, strict=True))


def _embed_images(engine: object, items: list[Pixels]) -> Sequence[Embedding]:
    out = cast(Engine, engine).embed_images(np.stack(items))
    return list(zip(out.embedding, out.tokens, strict=True))


def _rerank(engine: object, items: list[Pairs]) -> Sequence[Float32]:
    return [cast(Engine, engine).rerank(*pairs) for pairs in items]
