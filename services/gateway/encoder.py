"""The gateway's side of the encoder's HTTP interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import aiohttp
import numpy as np
import numpy.typing as npt

from services.gateway.neighbours import Embedding, Modality, unreadable
from services.gateway.replicas import Replicas
from shared import tokens, wire
from shared.schemas import EncoderStatus, ServedModel
from shared.tokens import TokenFeatures
from shared.wire import WireError


class Encoder:
    """All encoders: ``url`` names one or several, as :func:`services.gateway.addresses.split` reads it."""

    name = "encoder"

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        *,
        connect_seconds: float,
        embed_seconds: float,
        rerank_seconds: float,
    ) -> None:
        self.url = url.rstrip("/")
        self._replicas = Replicas(session, url, connect_seconds=connect_seconds)
        self._embed_seconds = embed_seconds
        self._rerank_seconds = rerank_seconds
        # How many replicas have each version of a model, as of the last look.
        self.holders: Mapping[str, int] = {}

    async def status(self) -> EncoderStatus:
        """What the replicas have together. Raises :class:`Problem` when none answers."""
        status, self.holders = await self._replicas.status()
        return status

    async def embed(self, query: str | bytes, model: ServedModel, *, with_tokens: bool) -> Embedding:
        """Embed a text, or the bytes of an image file."""
        if isinstance(query, str):
            body = {"texts": [query], "model": model.ref, "tokens": with_tokens}
            answer = await self._replicas.post(model, "/embed/text", self._embed_seconds, json=body)
        else:
            answer = await self._replicas.post(
                model,
                "/embed/image",
                self._embed_seconds,
                params={"model": model.ref, "tokens": with_tokens},
                data=query,
                headers={"Content-Type": "application/octet-stream"},
            )
        try:
            embedding = Embedding.read(answer.data, model)
            if with_tokens and embedding.tokens is None:
                raise WireError("the embedding came without tokens")
        except WireError as error:
            raise unreadable(self.name, self.url, error) from error
        return embedding

    async def embed_texts(self, texts: Sequence[str], model: ServedModel) -> dict[str, wire.Array]:
        """``embedding`` (n, D) of n texts, and their tokens as :func:`shared.tokens.to_tensors` has them."""
        body = {"texts": list(texts), "model": model.ref, "tokens": True}
        answer = await self._replicas.post(model, "/embed/text", self._embed_seconds, json=body)
        try:
            tensors, meta = wire.unpack(answer.data)
            if meta.get("fingerprint") != model.fingerprint:
                raise WireError(f"the embeddings were made by model {meta.get('model')!r}, not by {model.ref!r}")
            wire.require(tensors, "embedding", np.float32, len(texts), model.embedding_dim)
        except WireError as error:
            raise unreadable(self.name, self.url, error) from error
        return tensors

    async def rerank(
        self, modality: Modality, query: TokenFeatures, candidates: Sequence[TokenFeatures], model: ServedModel
    ) -> npt.NDArray[np.float32]:
        """Matching logits (n,) of n candidates; ``modality`` is the query's, the candidates have the other one."""
        message = wire.pack({**tokens.to_tensors([query], "query_"), **tokens.to_tensors(candidates)})
        answer = await self._replicas.post(
            model,
            "/rerank",
            self._rerank_seconds,
            params={"model": model.ref, "query": modality},
            data=message,
            headers={"Content-Type": wire.MEDIA_TYPE},
        )
        try:
            return wire.require(wire.unpack(answer.data)[0], "logits", np.float32, len(candidates))
        except WireError as error:
            raise unreadable(self.name, self.url, error) from error
