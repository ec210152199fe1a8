"""The public Python client of a Diptych gateway, blocking and asynchronous.

::

    with Client("http://127.0.0.1:8000") as diptych:
        for found in diptych.text_to_image("a dog on the beach", k=3).results:
            print(found.score, found.image_name)
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from shared.schemas import (
    ChangedImage,
    Cutoff,
    ImagesPage,
    ImageToTextResponse,
    ModelsResponse,
    ModelType,
    ReadyResponse,
    StoredImage,
    TextToImageResponse,
)

T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0


class DiptychError(Exception):
    """A request that was not answered. ``detail`` says what was wrong and what to do.

    ``status`` is the HTTP status, None when no answer came at all; ``request_id`` is the id under which the services
    logged the request.
    """

    def __init__(self, status: int | None, title: str, detail: str, request_id: str | None = None) -> None:
        super().__init__(f"{title}: {detail}")
        self.status = status
        self.title = title
        self.detail = detail
        self.request_id = request_id


@dataclass(frozen=True)
class _Call(Generic[T]):
    """A request, and how its answer is read. ``answers`` are the statuses that are an answer and not an error."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    options: dict[str, Any] = field(default_factory=dict)
    answers: tuple[int, ...] = (200,)

    def pause(self, outcome: httpx.Response | httpx.RequestError, attempt: int) -> float | None:
        """Seconds to wait before asking again, None when the outcome stands.

        Every call is safe to repeat: a search changes nothing, and a photo that is put in twice is there once. A
        connection that was refused or broke is tried again, and so is a 503 that says Retry-After, and a 429 that asks
        for little. A time-out is not: whoever waited that long should hear of it.
        """
        jitter = random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing
        if isinstance(outcome, httpx.NetworkError | httpx.RemoteProtocolError):
            return min(_FIRST_PAUSE * 2.0**attempt, _LONGEST_PAUSE) * jitter
        if isinstance(outcome, httpx.Response) and outcome.status_code in {429, 503} - set(self.answers):
            wanted = outcome.headers.get("Retry-After", "")
            if wanted.isdigit() and (outcome.status_code == 503 or int(wanted) <= _LONGEST_PAUSE):
                return min(float(wanted), _LONGEST_PAUSE) + _FIRST_PAUSE * jitter
        return None

    def result(self, outcome: httpx.Response | httpx.RequestError, base_url: str) -> T:
        """The answer, or :class:`DiptychError`."""
        if isinstance(outcome, httpx.TimeoutException):
            raise DiptychError(
                None, "No answer in time", f"the gateway at {base_url} took too long; allow more with timeout="
            ) from outcome
        if isinstance(outcome, httpx.RequestError):
            raise DiptychError(
                None,
                "The gateway cannot be reached",
                f"{base_url} does not answer ({outcome}); start it with `diptych up`, or give the right address",
            ) from outcome
        if outcome.status_code not in self.answers:
            raise _error(outcome)
        try:
            return self.read(outcome)
        except ValidationError as error:
            raise DiptychError(
                outcome.status_code, "Not an answer of Diptych", f"is {base_url} a Diptych gateway? {error}"
            ) from error


def _error(response: httpx.Response) -> DiptychError:
    try:
        document = response.json()
        title, detail = str(document["title"]), str(document["detail"])
    except (ValueError, KeyError, TypeError):
        title = "Not an answer of Diptych"
        detail = f"{response.url} answered {response.status_code}: {response.text[:200]}"
    return DiptychError(response.status_code, title, detail, response.headers.get("X-Request-ID"))


def _json(model: type[Model]) -> Callable[[httpx.Response], Model]:
    return lambda response: model.model_validate_json(response.content)


def _content(response: httpx.Response) -> bytes:
    return response.content


def _text_to_image(
    text: str, k: int, model_type: ModelType, min_score: float, cutoff: Cutoff, tags: Sequence[str]
) -> _Call[TextToImageResponse]:
    # Sent as (None, value) parts, which is how httpx spells a multipart field that is not a file.
    fields = {"text": text, **_options(k, model_type, min_score, cutoff)}
    parts = [(name, (None, value)) for name, value in [*fields.items(), *(("tag", tag) for tag in tags)]]
    return _Call("POST", "/text-to-image", _json(TextToImageResponse), {"files": parts})


def _image_to_text(
    image: bytes | Path, k: int, model_type: ModelType, min_score: float, cutoff: Cutoff, tags: Sequence[str]
) -> _Call[ImageToTextResponse]:
    name, data = (image.name, image.read_bytes()) if isinstance(image, Path) else ("image", image)
    options = {
        "files": {"image": (name, data)},
        "data": {**_options(k, model_type, min_score, cutoff), "tag": list(tags)},
    }
    return _Call("POST", "/image-to-text", _json(ImageToTextResponse), options)


def _options(k: int, model_type: ModelType, min_score: float, cutoff: Cutoff) -> dict[str, str]:
    return {"k": str(k), "model_type": model_type, "min_score": str(min_score), "cutoff": cutoff}


def _image(image_id: str) -> _Call[bytes]:
    return _Call("GET", f"/images/{quote(image_id, safe='')}", _content)


def _thumbnail(image_id: str, size: int) -> _Call[bytes]:
    return _Call("GET", f"/images/{quote(image_id, safe='')}/thumbnail", _content, {"params": {"size": size}})


def _put_image(
    image: bytes | Path,
    image_id: str | None,
    captions: Sequence[str],
    tags: Sequence[str],
    metadata: Mapping[str, Any] | None,
    name: str | None,
) -> _Call[ChangedImage]:
    shown, data = (image.name, image.read_bytes()) if isinstance(image, Path) else ("image", image)
    fields = {
        "caption": list(captions),
        "tag": list(tags),
        "metadata": json.dumps(metadata or {}),
        "name": name or shown,
    }
    method, path = ("POST", "/v1/images") if image_id is None else ("PUT", f"/v1/images/{quote(image_id, safe='')}")
    options = {"files": {"image": (shown, data)}, "data": fields}
    return _Call(method, path, _json(ChangedImage), options, answers=(200, 201))


def _remove_image(image_id: str) -> _Call[bool]:
    path = f"/v1/images/{quote(image_id, safe='')}"
    return _Call("DELETE", path, lambda response: response.status_code == 204, answers=(204, 404))


def _stored_image(image_id: str) -> _Call[StoredImage]:
    return _Call("GET", f"/v1/images/{quote(image_id, safe='')}", _json(StoredImage))


def _page(after: str) -> _Call[ImagesPage]:
    return _Call("GET", "/v1/images", _json(ImagesPage), {"params": {"after": after}})


def _models() -> _Call[ModelsResponse]:
    return _Call("GET", "/models", _json(ModelsResponse))


def _ready() -> _Call[ReadyResponse]:
    return _Call("GET", "/health/ready", _json(ReadyResponse), answers=(200, 503))


def key_header(api_key: str | None) -> dict[str, str]:
    """The header that says who asks, with that key or the environment's; none without either. Raises
    :class:`DiptychError`, in which the key is not shown, for one that cannot be sent."""
    key = (os.environ.get("DIPTYCH_API_KEY", "") if api_key is None else api_key).strip()
    if not re.fullmatch(r"[!-~]*", key):
        raise DiptychError(
            None, "The API key cannot be sent", "it has blanks or letters that no key has; correct DIPTYCH_API_KEY"
        )
    return {"Authorization": f"Bearer {key}"} if key else {}


class Client:
    """Blocking client. Use it as a context manager, or call :meth:`close`.

    ``timeout`` is how many seconds an answer is waited for; ``retries`` how often a request is repeated when the
    gateway could not be reached or was too busy; ``api_key`` what a gateway that asks for keys knows you by, by default
    that in the environment variable ``DIPTYCH_API_KEY``. Every method raises :class:`DiptychError`.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        *,
        timeout: float = 30.0,
        retries: int = 2,
        api_key: str | None = None,
    ) -> None:
        self._http = httpx.Client(base_url=base_url, timeout=timeout, headers=key_header(api_key))
        self._base_url = base_url
        self._retries = retries

    def text_to_image(
        self,
        text: str,
        k: int = 5,
        model_type: ModelType = "dual",
        *,
        min_score: float = 0.0,
        cutoff: Cutoff = "none",
        tags: Sequence[str] = (),
    ) -> TextToImageResponse:
        """The ``k`` photos that match ``text`` best; ``model_type`` "cross" reranks them by cross-attention.

        Without those that are a match with a probability under ``min_score``, and with ``cutoff`` "auto" only as far as
        the list has the highest expected F1. ``tags`` leave only what has all of them.
        """
        return self._ask(_text_to_image(text, k, model_type, min_score, cutoff, tags))

    def image_to_text(
        self,
        image: bytes | Path,
        k: int = 5,
        model_type: ModelType = "dual",
        *,
        min_score: float = 0.0,
        cutoff: Cutoff = "none",
        tags: Sequence[str] = (),
    ) -> ImageToTextResponse:
        """The ``k`` captions that match a picture best, cut like photos. ``image`` is an image file, or its bytes."""
        return self._ask(_image_to_text(image, k, model_type, min_score, cutoff, tags))

    def image(self, image_id: str) -> bytes:
        """A photo of the collection, as its file is."""
        return self._ask(_image(image_id))

    def thumbnail(self, image_id: str, size: int = 256) -> bytes:
        """A JPEG of the photo that fits into ``size`` x ``size`` pixels."""
        return self._ask(_thumbnail(image_id, size))

    def put_image(
        self,
        image: bytes | Path,
        *,
        image_id: str | None = None,
        captions: Sequence[str] = (),
        tags: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> ChangedImage:
        """Add a photo to the collection, or replace the one with this id; its content is its id when none is given.

        It is safe on the disk and can be searched when this returns.
        """
        return self._ask(_put_image(image, image_id, captions, tags, metadata, name))

    def remove_image(self, image_id: str) -> bool:
        """Remove a photo and its captions. False when there is none with this id."""
        return self._ask(_remove_image(image_id))

    def stored_image(self, image_id: str) -> StoredImage:
        """What is known of a photo of the collection."""
        return self._ask(_stored_image(image_id))

    def images(self) -> Iterator[StoredImage]:
        """All photos of the collection, by id; pages are asked for on the way."""
        after: str | None = ""
        while after is not None:
            page = self._ask(_page(after))
            yield from page.images
            after = page.next

    def models(self) -> ModelsResponse:
        """Which model and index versions answer, and how good they were measured to be."""
        return self._ask(_models())

    def ready(self) -> ReadyResponse:
        """Whether searches would be answered; if not, a sentence for each thing that is missing."""
        return self._ask(_ready())

    def _ask(self, call: _Call[T]) -> T:
        attempt = 0
        while True:
            outcome = self._send(call)
            pause = call.pause(outcome, attempt)
            if pause is None or attempt >= self._retries:
                return call.result(outcome, self._base_url)
            time.sleep(pause)
            attempt += 1

    def _send(self, call: _Call[T]) -> httpx.Response | httpx.RequestError:
        try:
            return self._http.request(call.method, call.path, **call.options)
        except httpx.RequestError as error:
            return error

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()


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
    ) -> TextToImageResponse:
        return await self._ask(_text_to_image(text, k, model_type, min_score, cutoff, tags))

    async def image_to_text(
        self,
        image: bytes | Path,
        k: int = 5,
        model_type: ModelType = "dual",
        *,
        min_score: float = 0.0,
        cutoff: Cutoff = "none",
        tags: Sequence[str] = (),
    ) -> ImageToTextResponse:
        return await self._ask(await asyncio.to_thread(_image_to_text, image, k, model_type, min_score, cutoff, tags))

    async def image(self, image_id: str) -> bytes:
        return await self._ask(_image(image_id))

    async def thumbnail(self, image_id: str, size: int = 256) -> bytes:
        return await self._ask(_thumbnail(image_id, size))

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
        return await self._ask(await asyncio.to_thread(_put_image, image, image_id, captions, tags, metadata, name))

    async def remove_image(self, image_id: str) -> bool:
        return await self._ask(_remove_image(image_id))

    async def stored_image(self, image_id: str) -> StoredImage:
        return await self._ask(_stored_image(image_id))

    async def images(self) -> AsyncIterator[StoredImage]:
        after: str | None = ""
        while after is not None:
            page = await self._ask(_page(after))
            for image in page.images:
                yield image
            after = page.next

    async def models(self) -> ModelsResponse:
        return await self._ask(_models())

    async def ready(self) -> ReadyResponse:
        return await self._ask(_ready())

    async def _ask(self, call: _Call[T]) -> T:
        attempt = 0
        while True:
            outcome = await self._send(call)
            pause = call.pause(outcome, attempt)
            if pause is None or attempt >= self._retries:
                return call.result(outcome, self._base_url)
            await asyncio.sleep(pause)
            attempt += 1

    async def _send(self, call: _Call[T]) -> httpx.Response | httpx.RequestError:
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
