"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx
import numpy as np
import numpy.typing as npt

from shared.client import bulk, requests
from shared.client.bulk import Upload
from shared.client.calls import Call, key_header
from shared.client.requests import Content
from shared.schemas import (
    ChangedImage,
    Cutoff,
    ImageToTextResponse,
    ModelsResponse,
    ModelType,
    ReadyResponse,
    StoredImage,
    TextToImageResponse,
)
from shared.schemas_v1 import BulkResult, ExplainAnswer, SearchAnswer, Target, Term

T = TypeVar("T")


class AsyncClient:
    """:class:`Client` for asyncio: the same methods, awaited."""

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        *,
        timeout: float = 30.0,
        retries: int = 2,
        api_key: str | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(base_url=base_url, timeout=timeout, headers=key_header(api_key))
        self._base_url = base_url
        self._retries = retries

    async def text_to_image(
        self,
        text: str,
        k: int = 5,
        model_type: ModelType = "dual",
        *,
        min_score: float = 0.0,
        cutoff: Cutoff = "none",
        tags: Sequence[str] = (),
        filter: Mapping[str, Any] | None = None,  # noqa: A002
    ) -> TextToImageResponse:
        return await self._ask(requests.text_to_image(text, k, model_type, min_score, cutoff, tags, filter))

    async def image_to_text(
        self,
        image: bytes | Path,
        k: int = 5,
        model_type: ModelType = "dual",
        *,
        min_score: float = 0.0,
        cutoff: Cutoff = "none",
        tags: Sequence[str] = (),
        filter: Mapping[str, Any] | None = None,  # noqa: A002
    ) -> ImageToTextResponse:
        return await self._ask(
            await asyncio.to_thread(requests.image_to_text, image, k, model_type, min_score, cutoff, tags, filter)
        )

    async def search(
        self,
        *query: Content | Term,
        target: Target = "images",
        k: int = 10,
        offset: int = 0,
        model_type: ModelType = "dual",
        min_score: float | None = None,
        min_similarity: float | None = None,
        cutoff: Cutoff = "none",
        tags: Sequence[str] = (),
        filter: Mapping[str, Any] | None = None,  # noqa: A002
        explain: bool = False,
    ) -> SearchAnswer:
        return await self._ask(
            await asyncio.to_thread(
                requests.search,
                query,
                target,
                k,
                offset,
                model_type,
                min_score,
                min_similarity,
                cutoff,
                tags,
                filter,
                explain,
            )
        )

    async def embed(self, inputs: Sequence[Content], model: str) -> npt.NDArray[np.float32]:
        return await self._ask(await asyncio.to_thread(requests.embed, inputs, model))

    async def explain(self, text: str, image_id: str) -> ExplainAnswer:
        return await self._ask(requests.explain(text, image_id))

    async def image(self, image_id: str) -> bytes:
        return await self._ask(requests.image(image_id))

    async def thumbnail(self, image_id: str, size: int = 256) -> bytes:
        return await self._ask(requests.thumbnail(image_id, size))

    async def put_image(
        self,
        image: bytes | Path,
        *,
        image_id: str | None = None,
        captions: Sequence[str] = (),
        tags: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> ChangedImage:
        return await self._ask(
            await asyncio.to_thread(requests.put_image, image, image_id, captions, tags, metadata, name)
        )

    async def put_images(self, uploads: Iterable[Upload]) -> AsyncIterator[BulkResult]:
        requests_ = bulk.requests(uploads)
        while (request := await asyncio.to_thread(next, requests_, None)) is not None:
            async for result in self._upload(request):
                yield result

    async def _upload(self, request: bulk.Request) -> AsyncIterator[BulkResult]:
        attempt = 0
        while request.missing:
            call = request.call()
            outcome: httpx.RequestError | httpx.Response
            try:
                async with self._http.stream(call.method, call.path, **call.options) as response:
                    if response.status_code == 200:
                        async for line in response.aiter_lines():
                            yield request.result(line, self._base_url)
                        outcome = request.cut_off()
                    else:
                        await response.aread()
                        outcome = response
            except httpx.RequestError as error:
                outcome = error
            if not request.missing:
                return
            pause = call.pause(outcome, attempt)
            if pause is None or attempt >= self._retries:
                call.answered(outcome, self._base_url)
            await asyncio.sleep(pause or 0)
            attempt += 1

    async def remove_image(self, image_id: str) -> bool:
        return await self._ask(requests.remove_image(image_id))

    async def stored_image(self, image_id: str) -> StoredImage:
        return await self._ask(requests.stored_image(image_id))

    async def images(self) -> AsyncIterator[StoredImage]:
        after: str | None = ""
        while after is not None:
            page = await self._ask(requests.page(after))
            for image in page.images:
                yield image
            after = page.next

    async def models(self) -> ModelsResponse:
        return await self._ask(requests.models())

    async def ready(self) -> ReadyResponse:
        return await self._ask(requests.ready())

    async def _ask(self, call: Call[T]) -> T:
        attempt = 0
        while True:
            outcome = await self._send(call)
            pause = call.pause(outcome, attempt)
            if pause is None or attempt >= self._retries:
                return call.result(outcome, self._base_url)
            await asyncio.sleep(pause)
            attempt += 1

    async def _send(self, call: Call[T]) -> httpx.Response | httpx.RequestError:
        try:
            return await self._http.request(call.method, call.path, **call.options)
        except httpx.RequestError as error:
            return error

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.aclose()
