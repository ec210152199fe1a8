"""``/v1/embeddings`` and ``/v1/models`` as OpenAI's clients know them (https://platform.openai.com/docs/api-reference).

``/models`` says more of what is served; these say it so that existing clients work.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Body
from fastapi.routing import APIRoute

from services.gateway.access import REFUSALS, needs
from services.gateway.documents import described
from services.gateway.encoder import Encoder
from services.gateway.v1_search import ALWAYS
from services.gateway.wiring import Connected, Gateway
from shared import tokens
from shared.problems import Problem
from shared.schemas import ServedModel
from shared.schemas_v1 import (
    EmbeddingObject,
    EmbeddingsAnswer,
    EmbeddingsRequest,
    ModelObject,
    ModelObjects,
    Usage,
    from_base64,
)

Floats = npt.NDArray[np.float32]
# Pictures of one request that are with the encoder at the same time.
_TOGETHER = 4
_EXAMPLES: dict[str, Any] = {
    "one": {"summary": "A text", "value": {"input": "a dog on the beach", "model": "flickr8k/1"}},
    "several": {
        "summary": "Texts and a picture, in base64",
        "value": {
            "input": ["a dog", "a cat", "data:image/png;base64,iVBORw0KGgoAAAANSUhEUg..."],
            "model": "flickr8k/1",
            "encoding_format": "base64",
        },
    },
}


def v1_embedding_routes(route_class: type[APIRoute]) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["models"], route_class=route_class, dependencies=[needs("read")])

    @router.post(
        "/embeddings",
        summary="Embed texts and pictures",
        responses=described(
            invalid_request="dimensions: flickr8k/1 makes 256 of them and no other number, not 1536",
            not_found="there is no model 'text-embedding-3-small' here: flickr8k/1 is served",
            **ALWAYS,
        ),
    )
    async def embeddings(
        gateway: Connected, asked: Annotated[EmbeddingsRequest, Body(openapi_examples=_EXAMPLES)]
    ) -> EmbeddingsAnswer:
        """Unit vectors in the space that is searched: a text's and a picture's can be compared by their dot product.

        `model` is one of `/v1/models`, or its name without the version for the one that answers now. Arrays of token
        ids are refused: other models' tokens mean nothing to this one.
        """
        model = await _model(gateway, asked.model)
        if asked.dimensions not in (None, model.embedding_dim):
            raise Problem(
                "invalid-request",
                f"dimensions: {model.ref} makes {model.embedding_dim} of them and no other number, not "
                f"{asked.dimensions}",
            )
        inputs = [asked.input] if isinstance(asked.input, str) else asked.input
        vectors, count = await _embed(gateway.encoder, inputs, model)
        data = [
            EmbeddingObject(index=n, embedding=_shown(vector, asked.encoding_format == "base64"))
            for n, vector in enumerate(vectors)
        ]
        return EmbeddingsAnswer(data=data, model=model.ref, usage=Usage(prompt_tokens=count, total_tokens=count))

    @router.get("/models", summary="The models that can be asked for", responses=described(**REFUSALS))
    async def models(gateway: Connected) -> ModelObjects:
        """In OpenAI's shape; `/models` tells more."""
        return ModelObjects(data=[_object(gateway, model) for model in await _served(gateway)])

    @router.get(
        "/models/{ref:path}",
        summary="One of the models",
        responses=described(not_found="there is no model 'gpt' here: flickr8k/1 is served", **REFUSALS),
    )
    async def model(gateway: Connected, ref: str) -> ModelObject:
        return _object(gateway, await _model(gateway, ref))

    return router


async def _served(gateway: Gateway) -> Sequence[ServedModel]:
    pairing = gateway.pairing
    if pairing.encoder is None:
        await pairing.refresh()
    return pairing.encoder.models if pairing.encoder else []


async def _model(gateway: Gateway, name: str) -> ServedModel:
    """Raises :class:`Problem`."""
    current = (await gateway.pairing.pair()).model
    if name in (current.ref, current.ref.partition("/")[0]):
        return current
    served = {model.ref: model for model in await _served(gateway)}
    if name not in served:
        raise Problem("not-found", f"there is no model {name[:80]!r} here: {', '.join(served)} is served")
    return served[name]


def _object(gateway: Gateway, model: ServedModel) -> ModelObject:
    pair = gateway.pairing.current
    return ModelObject(
        id=model.ref,
        embedding_dim=model.embedding_dim,
        has_reranker=model.has_reranker,
        current=pair is not None and pair.model.ref == model.ref,
    )


async def _embed(encoder: Encoder, inputs: Sequence[str], model: ServedModel) -> tuple[Floats, int]:
    """Vectors (n, D) of n inputs, and how many tokens the model read."""
    vectors = np.zeros((len(inputs), model.embedding_dim), np.float32)
    pictures = [n for n, text in enumerate(inputs) if text.startswith("data:")]
    words = [n for n, text in enumerate(inputs) if not text.startswith("data:")]
    turns = asyncio.Semaphore(_TOGETHER)
    count = 0

    async def picture(n: int) -> None:
        nonlocal count
        try:
            data = from_base64(inputs[n])
        except ValueError as error:
            raise Problem("invalid-request", f"input.{n}: {error}") from error
        assert isinstance(data, bytes)
        async with turns:
            embedding = await encoder.embed(data, model, with_tokens=True)
        vectors[n] = embedding.vector
        count += len(embedding.tokens or ())

    async def texts() -> None:
        nonlocal count
        if words:
            made = await encoder.embed_texts([inputs[n] for n in words], model)
            vectors[words] = made["embedding"]
            count += sum(len(one) for one in tokens.from_tensors(made))

    await asyncio.gather(texts(), *(picture(n) for n in pictures))
    return vectors, count


def _shown(vector: Floats, in_base64: bool) -> list[float] | str:
    if in_base64:
        return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    floats: list[float] = vector.tolist()
    return floats
