"""What can be asked of a gateway: each function makes the request of the client's method of the same name."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from shared.client.calls import Call
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
from shared.schemas_v1 import EmbeddingsAnswer, ExplainAnswer, SearchAnswer, Target, Term

Model = TypeVar("Model", bound=BaseModel)
Content = str | bytes | Path
Filter = Mapping[str, Any] | None


def _json(model: type[Model]) -> Callable[[httpx.Response], Model]:
    return lambda response: model.model_validate_json(response.content)


def _content(response: httpx.Response) -> bytes:
    return response.content


def text_to_image(
    text: str, k: int, model_type: ModelType, min_score: float, cutoff: Cutoff, tags: Sequence[str], where: Filter
) -> Call[TextToImageResponse]:
    # Sent as (None, value) parts, which is how httpx spells a multipart field that is not a file.
    fields = {"text": text, **_options(k, model_type, min_score, cutoff, where)}
    parts = [(name, (None, value)) for name, value in [*fields.items(), *(("tag", tag) for tag in tags)]]
    return Call("POST", "/text-to-image", _json(TextToImageResponse), {"files": parts})


def image_to_text(
    image: bytes | Path,
    k: int,
    model_type: ModelType,
    min_score: float,
    cutoff: Cutoff,
    tags: Sequence[str],
    where: Filter,
) -> Call[ImageToTextResponse]:
    name, data = (image.name, image.read_bytes()) if isinstance(image, Path) else ("image", image)
    options = {
        "files": {"image": (name, data)},
        "data": {**_options(k, model_type, min_score, cutoff, where), "tag": list(tags)},
    }
    return Call("POST", "/image-to-text", _json(ImageToTextResponse), options)


def _options(k: int, model_type: ModelType, min_score: float, cutoff: Cutoff, where: Filter) -> dict[str, str]:
    options = {"k": str(k), "model_type": model_type, "min_score": str(min_score), "cutoff": cutoff}
    return {**options, "filter": json.dumps(dict(where))} if where else options


def image(image_id: str) -> Call[bytes]:
    return Call("GET", f"/images/{quote(image_id, safe='')}", _content)


def thumbnail(image_id: str, size: int) -> Call[bytes]:
    return Call("GET", f"/images/{quote(image_id, safe='')}/thumbnail", _content, {"params": {"size": size}})


def put_image(
    image: bytes | Path,
    image_id: str | None,
    captions: Sequence[str],
    tags: Sequence[str],
    metadata: Mapping[str, Any] | None,
    name: str | None,
) -> Call[ChangedImage]:
    shown, data = (image.name, image.read_bytes()) if isinstance(image, Path) else ("image", image)
    fields = {
        "caption": list(captions),
        "tag": list(tags),
        "metadata": json.dumps(metadata or {}),
        "name": name or shown,
    }
    method, path = ("POST", "/v1/images") if image_id is None else ("PUT", f"/v1/images/{quote(image_id, safe='')}")
    options = {"files": {"image": (shown, data)}, "data": fields}
    return Call(method, path, _json(ChangedImage), options, answers=(200, 201))


def remove_image(image_id: str) -> Call[bool]:
    path = f"/v1/images/{quote(image_id, safe='')}"
    return Call("DELETE", path, lambda response: response.status_code == 204, answers=(204, 404))


def stored_image(image_id: str) -> Call[StoredImage]:
    return Call("GET", f"/v1/images/{quote(image_id, safe='')}", _json(StoredImage))


def page(after: str) -> Call[ImagesPage]:
    return Call("GET", "/v1/images", _json(ImagesPage), {"params": {"after": after}})


def models() -> Call[ModelsResponse]:
    return Call("GET", "/models", _json(ModelsResponse))


def ready() -> Call[ReadyResponse]:
    return Call("GET", "/health/ready", _json(ReadyResponse), answers=(200, 503))


def search(
    query: Sequence[Content | Term],
    target: Target,
    k: int,
    offset: int,
    model_type: ModelType,
    min_score: float | None,
    min_similarity: float | None,
    cutoff: Cutoff,
    tags: Sequence[str],
    where: Filter,
    explain: bool,
) -> Call[SearchAnswer]:
    body = {
        "query": [_term(term).model_dump(mode="json", exclude_none=True) for term in query],
        "target": target,
        "k": k,
        "offset": offset,
        "model_type": model_type,
        "min_score": min_score,
        "min_similarity": min_similarity,
        "cutoff": cutoff,
        "tags": list(tags),
        "filter": dict(where or {}),
        "explain": explain,
    }
    return Call("POST", "/v1/search", _json(SearchAnswer), {"json": body})


def embed(inputs: Sequence[Content], model: str) -> Call[npt.NDArray[np.float32]]:
    def vectors(response: httpx.Response) -> npt.NDArray[np.float32]:
        rows = EmbeddingsAnswer.model_validate_json(response.content).data
        return np.stack([np.frombuffer(base64.b64decode(str(row.embedding)), "<f4") for row in rows])

    texts = [one if isinstance(one, str) else f"data:image/any;base64,{_base64(one)}" for one in inputs]
    body = {"input": texts, "model": model, "encoding_format": "base64"}
    return Call("POST", "/v1/embeddings", vectors, {"json": body})


def explain(text: str, image_id: str) -> Call[ExplainAnswer]:
    return Call("POST", "/v1/explain", _json(ExplainAnswer), {"json": {"text": text, "id": image_id}})


def _term(content: Content | Term) -> Term:
    if isinstance(content, Term):
        return content
    return Term(text=content) if isinstance(content, str) else Term(image=_bytes(content))


def _bytes(image: bytes | Path) -> bytes:
    return image.read_bytes() if isinstance(image, Path) else image


def _base64(image: bytes | Path) -> str:
    return base64.b64encode(_bytes(image)).decode("ascii")
