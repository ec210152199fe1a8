"""The client that waits."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
        filter: Mapping[str, Any] | None = None,  # noqa: A002
    ) -> TextToImageResponse:
        """The ``k`` photos that match ``text`` best; ``model_type`` "cross" reranks them by cross-attention.

        Without those that are a match with a probability under ``min_score``, and with ``cutoff`` "auto" only as far as
        the list has the highest expected F1. ``tags`` leave only what has all of them. ``filter`` says what the
        photo's metadata must be: ``{"place": ["Rome", "Oslo"], "year": {"gte": 2020}}``.
        """
        return self._ask(requests.text_to_image(text, k, model_type, min_score, cutoff, tags, filter))

    def image_to_text(
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
        """The ``k`` captions that match a picture best, cut like photos. ``image`` is an image file, or its bytes."""
        return self._ask(requests.image_to_text(image, k, model_type, min_score, cutoff, tags, filter))

    def search(
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
        """The best for a text, a picture (its bytes, or its file's path), or several of them asked as one, weighted as
        :class:`Term` says: negative weights push away. Ask for the next page with its ``next_offset``.

        ``min_score`` and ``cutoff`` are for single texts, and for single pictures to captions: only their scores are
        probabilities. ``min_similarity`` is for all.
        """
        return self._ask(
            requests.search(
                query, target, k, offset, model_type, min_score, min_similarity, cutoff, tags, filter, explain
            )
        )

    def embed(self, inputs: Sequence[Content], model: str) -> npt.NDArray[np.float32]:
        """Unit vectors (n, D) of n texts and pictures. ``model`` is one of :meth:`models`, or its name alone."""
        return self._ask(requests.embed(inputs, model))

    def explain(self, text: str, image_id: str) -> ExplainAnswer:
        """Where in a photo each word of the text is seen."""
        return self._ask(requests.explain(text, image_id))

    def image(self, image_id: str) -> bytes:
        """A photo of the collection, as its file is."""
        return self._ask(requests.image(image_id))

    def thumbnail(self, image_id: str, size: int = 256) -> bytes:
        """A JPEG of the photo that fits into ``size`` x ``size`` pixels."""
        return self._ask(requests.thumbnail(image_id, size))

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
        return self._ask(requests.put_image(image, image_id, captions, tags, metadata, name))

    def put_images(self, uploads: Iterable[Upload]) -> Iterator[BulkResult]:
        """Add or replace many photos; what became of each, as it is done: ``line`` counts the uploads from 1.

        They are read and sent as they are needed, some dozens in a request, and a request that was cut off is asked
        again: what was stored already is ``unchanged`` then. One that cannot be stored does not end the others'.
        """
        for request in bulk.requests(uploads):
            yield from self._upload(request)

    def _upload(self, request: bulk.Request) -> Iterator[BulkResult]:
        attempt = 0
        while request.missing:
            call = request.call()
            outcome: httpx.RequestError | httpx.Response
            try:
                with self._http.stream(call.method, call.path, **call.options) as response:
                    if response.status_code == 200:
                        for line in response.iter_lines():
                            yield request.result(line, self._base_url)
                        outcome = request.cut_off()
                    else:
                        response.read()
                        outcome = response
            except httpx.RequestError as error:
                outcome = error
            if not request.missing:
                return
            pause = call.pause(outcome, attempt)
            if pause is None or attempt >= self._retries:
                call.answered(outcome, self._base_url)
            time.sleep(pause or 0)
            attempt += 1

    def remove_image(self, image_id: str) -> bool:
        """Remove a photo and its captions. False when there is none with this id."""
        return self._ask(requests.remove_image(image_id))

    def stored_image(self, image_id: str) -> StoredImage:
        """What is known of a photo of the collection."""
        return self._ask(requests.stored_image(image_id))

    def images(self) -> Iterator[StoredImage]:
        """All photos of the collection, by id; pages are asked for on the way."""
        after: str | None = ""
        while after is not None:
            page = self._ask(requests.page(after))
            yield from page.images
            after = page.next

    def models(self) -> ModelsResponse:
        """Which model and index versions answer, and how good they were measured to be."""
        return self._ask(requests.models())

    def ready(self) -> ReadyResponse:
        """Whether searches would be answered; if not, a sentence for each thing that is missing."""
        return self._ask(requests.ready())

    def _ask(self, call: Call[T]) -> T:
        attempt = 0
        while True:
            outcome = self._send(call)
            pause = call.pause(outcome, attempt)
            if pause is None or attempt >= self._retries:
                return call.result(outcome, self._base_url)
            time.sleep(pause)
            attempt += 1

    def _send(self, call: Call[T]) -> httpx.Response | httpx.RequestError:
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
