"""The gateway's side of a neighbour's HTTP interface, and of the index's. The encoder's is in :mod:`.encoder`.

Every failure leaves here as a :class:`Problem`: what the neighbour found wrong with the request is passed on as it is,
everything else is :class:`UnavailableError`.
"""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import aiohttp
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ValidationError

from services.gateway.circuit import PAUSE_SECONDS, Circuit
from shared import tokens, wire
from shared.http import DEADLINE_HEADER
from shared.problems import CATALOGUE, Problem
from shared.schemas import ChangedImage, IndexStatus, ServedModel, StoredImage
from shared.telemetry import REQUEST_ID_HEADER, request_id
from shared.tokens import TokenFeatures
from shared.wire import WireError

Modality = Literal["text", "image"]
Collection = Literal["images", "captions"]
Status = TypeVar("Status", bound=BaseModel)
T = TypeVar("T")

# What a neighbour may say about a request of ours that its caller should hear. Any other error is the neighbour's own.
_PASSED_ON = frozenset(
    {
        "invalid-request",
        "invalid-image",
        "image-too-large",
        "body-too-large",
        "unknown-version",
        "no-reranker",
        "overloaded",
        "not-ready",
    }
)
_DOCUMENT = ("type", "title", "status", "detail", "request_id")
# What reading a JSON document raises that is not what it should be; pydantic's ValidationError is a ValueError.
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


class UnavailableError(Problem):
    """A neighbour does not answer, or not in a way that can be understood.

    ``dropped``: the connection was refused or broke, as it does when the neighbour is being restarted, so asking again
    at once is worth it. After a time-out it is not.
    """

    def __init__(self, detail: str, *, dropped: bool = False, retry_after: int = 1) -> None:
        super().__init__("neighbour-unavailable", detail, retry_after=retry_after)
        self.dropped = dropped


@dataclass(frozen=True)
class Embedding:
    """A query's ``vector`` float32 (D,), its ``tokens`` when they were asked for, and the ``message`` they came in."""

    vector: npt.NDArray[np.float32]
    tokens: TokenFeatures | None
    message: bytes

    @staticmethod
    def read(message: bytes, model: ServedModel) -> Embedding:
        """Raises :class:`WireError` when the message is not one embedding made by ``model``."""
        tensors, meta = wire.unpack(message)
        if meta.get("fingerprint") != model.fingerprint:
            raise WireError(f"the embedding was made by model {meta.get('model')!r}, not by {model.ref!r}")
        vector = wire.require(tensors, "embedding", np.float32, 1, model.embedding_dim)[0]
        features = tokens.from_tensors(tensors, dim=model.token_dim) if "codes" in tensors else []
        return Embedding(vector, features[0] if features else None, message)


@dataclass(frozen=True)
class Candidates:
    """What the index found, best first: ``cosines`` float32 (n,), n items, and their ``tokens`` when asked for."""

    cosines: npt.NDArray[np.float32]
    items: list[dict[str, Any]]
    tokens: list[TokenFeatures]


@dataclass(frozen=True)
class Embeddings:
    """``vectors`` float32 (n, D) of n items, and their ``tokens`` when asked for."""

    vectors: npt.NDArray[np.float32]
    tokens: list[TokenFeatures]


@dataclass(frozen=True)
class PhotoFile:
    data: bytes
    media_type: str


class Neighbour:
    """One service's address, and how to talk to it. ``connect_seconds`` bounds only the connection."""

    name = "neighbour"

    def __init__(self, session: aiohttp.ClientSession, url: str, *, connect_seconds: float) -> None:
        self._session = session
        self.url = url.rstrip("/")
        self._connect_seconds = connect_seconds
        # One for each kind of call: a reranker that hangs is no reason to stop embedding.
        self._circuits: defaultdict[str, Circuit] = defaultdict(Circuit)

    async def _ask(
        self, method: str, path: str, seconds: float, passed_on: frozenset[str] = _PASSED_ON, **options: Any
    ) -> PhotoFile:
        """The body of a successful answer and its media type."""
        headers = {DEADLINE_HEADER: str(int(seconds * 1000))}
        if rid := request_id():
            headers[REQUEST_ID_HEADER] = rid
        headers.update(options.pop("headers", {}))
        options["params"] = {key: _parameter(value) for key, value in options.get("params", {}).items()}
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=self._connect_seconds)
        kind = "/images" if path.startswith("/images") else path
        circuit = self._circuits[kind]
        if kind != "/status" and not circuit.admits():
            raise UnavailableError(
                f"the {self.name} at {self.url} has stopped answering {kind} in time and is left alone for a moment: "
                "see its log, or start it again",
                retry_after=math.ceil(PAUSE_SECONDS),
            )
        try:
            async with self._session.request(
                method, self.url + path, headers=headers, timeout=timeout, allow_redirects=False, **options
            ) as response:
                body = await response.read()
        except TimeoutError as error:
            circuit.timed_out()
            raise UnavailableError(f"the {self.name} at {self.url} did not answer within {seconds:g} s") from error
        except (aiohttp.ClientError, ValueError) as error:
            circuit.ended()
            raise UnavailableError(
                f"the {self.name} at {self.url} does not answer ({_reason(error)}): "
                f"start it, or correct DIPTYCH_GATEWAY_{self.name.upper()}_URL",
                dropped=isinstance(error, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError),
            ) from error
        circuit.ended()
        if response.status != 200:
            raise self._refusal(response, body, passed_on)
        return PhotoFile(body, response.content_type)

    def _refusal(self, response: aiohttp.ClientResponse, body: bytes, passed_on: frozenset[str]) -> Problem:
        try:
            document = json.loads(body)
            slug = document["type"].rpartition(":")[2]
            detail = str(document["detail"])
        except _UNREADABLE:
            return UnavailableError(
                f"what answers at {self.url} (status {response.status}) is no Diptych {self.name}: "
                f"correct DIPTYCH_GATEWAY_{self.name.upper()}_URL"
            )
        if slug == "unauthenticated":
            return UnavailableError(
                f"the {self.name} at {self.url} does not know this gateway: correct DIPTYCH_INTERNAL_TOKEN, which must "
                "be the same for both"
            )
        if slug not in passed_on or slug not in CATALOGUE:
            return UnavailableError(
                f"the {self.name} failed with {response.status}, {detail}: see its log under this request's id"
            )
        retry_after = response.headers.get("Retry-After", "")
        extra = {key: value for key, value in document.items() if key not in _DOCUMENT}
        return Problem(slug, detail, retry_after=int(retry_after) if retry_after.isdigit() else None, **extra)

    async def _status(self, schema: type[Status]) -> Status:
        answer = await self._ask("GET", "/status", 2 * self._connect_seconds)
        try:
            return schema.model_validate_json(answer.data)
        except ValidationError as error:
            raise UnavailableError(
                f"what answers at {self.url} is no Diptych {self.name}: correct DIPTYCH_GATEWAY_{self.name.upper()}_URL"
            ) from error

    def _unreadable(self, error: Exception) -> UnavailableError:
        return unreadable(self.name, self.url, error)


class Index(Neighbour):
    name = "index"

    def __init__(
        self, session: aiohttp.ClientSession, url: str, *, connect_seconds: float, search_seconds: float
    ) -> None:
        super().__init__(session, url, connect_seconds=connect_seconds)
        self._search_seconds = search_seconds

    async def status(self) -> IndexStatus:
        return await self._status(IndexStatus)

    async def search(
        self,
        collection: Collection,
        vector: npt.NDArray[np.float32],
        k: int,
        ref: str,
        *,
        with_tokens: bool,
        tags: Sequence[str] = (),
        where: str = "",
    ) -> Candidates:
        """The ``k`` items nearest to ``vector`` (D,) of those with all the ``tags`` that fit the filter ``where``,
        or all when there are fewer."""
        params = {"index": ref, "collection": collection, "k": k, "tokens": with_tokens, "tag": tags}
        answer = await self._ask(
            "POST",
            "/search",
            self._search_seconds,
            params={**params, "filter": where} if where else params,
            data=wire.pack({"queries": vector[None]}),
            headers={"Content-Type": wire.MEDIA_TYPE},
        )
        try:
            tensors, meta = wire.unpack(answer.data)
            items = meta["items"][0]
            for item in items:
                str(item["id"]), str(item["name"] if collection == "images" else item["caption"])
            cosines = wire.require(tensors, "scores", np.float32, 1, len(items))[0]
            features = tokens.from_tensors(tensors) if with_tokens else []
            if with_tokens and len(features) != len(items):
                raise WireError(f"{len(items)} items came with the tokens of {len(features)}")
        except (WireError, LookupError, TypeError) as error:
            raise self._unreadable(error) from error
        return Candidates(cosines, items, features)

    async def embeddings(
        self, collection: Collection, ids: Sequence[str], model: ServedModel, ref: str, *, with_tokens: bool
    ) -> Embeddings:
        """What is stored of n items. Raises :class:`Problem` ``not-found``."""
        answer = await self._ask(
            "POST",
            f"/collections/{collection}/embeddings",
            self._search_seconds,
            _PASSED_ON | {"not-found"},
            params={"index": ref, "tokens": with_tokens},
            json={"ids": list(ids)},
        )
        try:
            tensors, _ = wire.unpack(answer.data)
            vectors = wire.require(tensors, "embedding", np.float32, len(ids), model.embedding_dim)
            features = tokens.from_tensors(tensors, dim=model.token_dim) if with_tokens else []
            if with_tokens and len(features) != len(ids):
                raise WireError(f"{len(ids)} items came with the tokens of {len(features)}")
        except WireError as error:
            raise self._unreadable(error) from error
        return Embeddings(vectors, features)

    async def put(self, image_id: str, message: bytes, ref: str) -> tuple[ChangedImage, int]:
        """Store a photo with what the model made of it. What came of it, and the number of the change."""
        return await self._json(
            "PUT",
            f"/images/{image_id}",
            ref,
            lambda said: (ChangedImage.model_validate({**said, "index_version": said["index"]}), int(said["revision"])),
            data=message,
            headers={"Content-Type": wire.MEDIA_TYPE},
        )

    async def put_embedding(self, image_id: str, seq: int, message: bytes, ref: str) -> int:
        """What the model of this index made of a photo that waits for it; gives the number of the change."""
        return await self._json(
            "PUT",
            f"/images/{image_id}/embedding",
            ref,
            lambda said: int(said["revision"] or 0),
            params={"seq": seq},
            data=message,
            headers={"Content-Type": wire.MEDIA_TYPE},
        )

    async def remove(self, image_id: str, ref: str) -> int:
        """The number of the change. Raises :class:`Problem` ``not-found``."""
        return await self._json("DELETE", f"/images/{image_id}", ref, lambda said: int(said["revision"]))

    async def about(self, image_id: str, ref: str) -> StoredImage:
        """Raises :class:`Problem` ``not-found``."""
        return await self._json("GET", f"/images/{image_id}", ref, _stored)

    async def page(self, after: str, limit: int, ref: str) -> list[StoredImage]:
        """Photos by id, those that follow ``after``."""
        return await self._json(
            "GET",
            "/images",
            ref,
            lambda said: [_stored(one) for one in said["images"]],
            params={"after": after, "limit": limit},
        )

    async def pending(self, ref: str) -> list[tuple[str, int]]:
        """``id`` and ``seq`` of photos that the index's model has not seen."""
        return await self._json(
            "GET", "/pending", ref, lambda said: [(str(one["id"]), int(one["seq"])) for one in said["images"]]
        )

    async def _json(
        self,
        method: str,
        path: str,
        ref: str,
        read: Callable[[Any], T],
        params: dict[str, Any] | None = None,
        **options: Any,
    ) -> T:
        answer = await self._ask(
            method,
            path,
            self._search_seconds,
            _PASSED_ON | {"not-found", "storage-full", "read-only"},
            params={"index": ref, **(params or {})},
            **options,
        )
        try:
            return read(json.loads(answer.data))
        except _UNREADABLE as error:
            raise self._unreadable(error) from error

    async def photo(self, image_id: str, ref: str) -> PhotoFile:
        """A photo's file. Raises :class:`Problem` ``not-found`` when there is none, or no longer."""
        answer = await self._ask(
            "GET",
            f"/images/{image_id}/content",
            self._search_seconds,
            _PASSED_ON | {"not-found"},
            params={"index": ref},
        )
        if not answer.media_type.startswith("image/"):
            raise self._unreadable(ValueError(f"photo {image_id} came as {answer.media_type}"))
        return answer


def unreadable(name: str, url: str, error: Exception) -> UnavailableError:
    return UnavailableError(f"the {name} at {url} sent an answer that cannot be read: {error}")


def _stored(about: dict[str, Any]) -> StoredImage:
    path = f"/images/{about['id']}"
    return StoredImage.model_validate({**about, "image_path": path, "thumbnail_path": f"{path}/thumbnail"})


def _reason(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError) and (error.errno or 0) > 0:
        return os.strerror(error.errno or 0)  # shorter than aiohttp's sentence, which repeats the address
    return str(error) or type(error).__name__


def _parameter(value: Any) -> str | list[str]:
    if isinstance(value, list | tuple):
        return [str(one) for one in value]
    return str(value).lower() if isinstance(value, bool) else str(value)
