"""A query's way: result cache, identical queries in flight, encoder, index, reranker, final scores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ValidationError

from services.gateway import metrics
from services.gateway.cache import Cache
from services.gateway.coalesce import Coalescer
from services.gateway.encoder import Encoder
from services.gateway.metrics import Timings
from services.gateway.neighbours import Candidates, Collection, Embedding, Index, Modality
from services.gateway.pairing import Pair, Pairing
from shared import scoring
from shared.filters import Filter
from shared.problems import Problem
from shared.schemas import ModelType
from shared.scoring import Cut
from shared.telemetry import log
from shared.tokens import TokenFeatures
from shared.wire import WireError

# Where the search for captions with other words ends: the most that the index service gives.
MOST_CANDIDATES = 10_000
_WHOLE = Cut()

Document = TypeVar("Document", bound=BaseModel)
Floats = npt.NDArray[np.float32]
Ranked = tuple[npt.NDArray[np.int64], scoring.Probabilities]


@dataclass(frozen=True)
class Query:
    """A text, or the bytes of an image file, and what it is searched in: what has all the ``tags`` and is of a photo
    that fits ``where``, as :func:`filter_text` gives it."""

    content: str | bytes
    tags: tuple[str, ...] = ()
    where: str = ""

    @property
    def modality(self) -> Modality:
        return "text" if isinstance(self.content, str) else "image"

    @property
    def collection(self) -> Collection:
        return "images" if isinstance(self.content, str) else "captions"

    @cached_property
    def digest(self) -> str:
        data = self.content.encode() if isinstance(self.content, str) else self.content
        return f"{self.modality}:{hashlib.sha256(data).hexdigest()}"

    @property
    def among(self) -> str:
        """The same for all that are searched in the same."""
        said = json.dumps([sorted(self.tags), self.where])
        return hashlib.sha256(said.encode()).hexdigest() if self.tags or self.where else ""


class Hit(BaseModel):
    """An item of the index, with everything it stores about the item, and how likely it is a match (0 to 1)."""

    score: float
    item: dict[str, Any]


class Ranking(BaseModel):
    """Hits, best first. ``degraded`` names the problem that kept the reranker from ranking them."""

    model_type: ModelType
    model: str
    index: str
    hits: list[Hit]
    degraded: str | None = None


@dataclass(frozen=True)
class Answer:
    """``left_out`` counts the hits that a cut took away."""

    ranking: Ranking
    cached: bool
    milliseconds: dict[str, float]
    left_out: int = 0


class Search:
    """``rerank_depth`` candidates are reranked, or k when that is more, but never over ``max_rerank``."""

    def __init__(
        self, encoder: Encoder, index: Index, pairing: Pairing, cache: Cache, *, rerank_depth: int, max_rerank: int
    ) -> None:
        self._encoder = encoder
        self._index = index
        self._pairing = pairing
        self._cache = cache
        self._rerank_depth = rerank_depth
        self._max_rerank = max_rerank
        self._in_flight: Coalescer[Answer] = Coalescer()

    async def answer(self, query: Query, model_type: ModelType, k: int, cut: Cut) -> Answer:
        """The ``k`` best matches, fewer when the collection is smaller or ``cut`` leaves some out. Raises
        :class:`Problem`. What is cached, and shared with equal queries, is uncut."""
        total = Timings()
        with total.stage("total"):
            found = await self._pairing.run(lambda pair: self._by(pair, query, model_type, k))
            hits = kept = found.ranking.hits
            if cut != _WHOLE:
                kept = hits[: cut.kept(np.array([hit.score for hit in hits]))]
        ranking = found.ranking if kept is hits else found.ranking.model_copy(update={"hits": kept})
        timings = {**found.milliseconds, **total.milliseconds}
        return Answer(ranking, found.cached, timings, left_out=len(hits) - len(kept))

    async def _by(self, pair: Pair, query: Query, model_type: ModelType, k: int) -> Answer:
        if model_type == "cross" and not pair.model.has_reranker:
            plain = await self._by(pair, query, "dual", k)
            return Answer(_without_reranker(plain.ranking, "no-reranker"), plain.cached, plain.milliseconds)
        key = f"{pair.key}:{query.digest}:{model_type}:{k}:{query.among}"
        timings = Timings()
        with timings.stage("cache"):
            message, known = await self._cache.get_each(("results", key), ("embeddings", _embedding_key(pair, query)))
            stored = read_stored(Ranking, message)
        if stored is not None:
            return Answer(stored, True, timings.milliseconds)
        return await self._in_flight.run(key, lambda: self._rank(pair, query, model_type, k, key, known, timings))

    async def _rank(
        self,
        pair: Pair,
        query: Query,
        model_type: ModelType,
        k: int,
        key: str,
        known: bytes | None,
        timings: Timings,
    ) -> Answer:
        rerank = model_type == "cross"
        embedding = _known(known, pair, rerank)
        made = []
        if embedding is None:
            with timings.stage("encode"):
                embedding = await self._encoder.embed(query.content, pair.model, with_tokens=rerank)
            made.append(("embeddings", _embedding_key(pair, query), embedding.message))
        depth = max(k, self._rerank_depth) if rerank else k
        with timings.stage("search"):
            found = await self.candidates(
                pair,
                query.collection,
                embedding.vector,
                depth,
                with_tokens=rerank,
                tags=query.tags,
                where=query.where,
            )
        features = embedding.tokens if rerank else None
        (order, scores), _, degraded = await self.ranked(
            pair, query.modality, features, found, self._max_rerank, timings
        )
        hits = [
            Hit(score=float(score), item=found.items[row]) for row, score in zip(order[:k], scores[:k], strict=True)
        ]
        ranking = Ranking(model_type=model_type, model=pair.model.ref, index=pair.index.ref, hits=hits)
        if degraded is None:
            made.append(("results", key, ranking.model_dump_json().encode()))
        else:
            ranking = _without_reranker(ranking, degraded)
        with timings.stage("cache"):
            await self._cache.put_each(*made)
        return Answer(ranking, False, timings.milliseconds)

    async def embed(self, pair: Pair, query: Query, with_tokens: bool, timings: Timings) -> Embedding:
        """From the cache, or made and put there. Raises :class:`Problem`."""
        key = _embedding_key(pair, query)
        with timings.stage("cache"):
            known = _known(await self._cache.get("embeddings", key), pair, with_tokens)
        if known is not None:
            return known
        with timings.stage("encode"):
            embedding = await self._encoder.embed(query.content, pair.model, with_tokens=with_tokens)
        with timings.stage("cache"):
            await self._cache.put("embeddings", key, embedding.message)
        return embedding

    async def ranked(
        self,
        pair: Pair,
        asked: Modality,
        features: TokenFeatures | None,
        found: Candidates,
        depth: int,
        timings: Timings,
    ) -> tuple[Ranked, Floats, str | None]:
        """Rows and scores of what was found, best first. With the ``features`` of the query, which is of the modality
        ``asked``, ``depth`` of them by the reranker, whose logits come with them; or by the dual encoder as ever, with
        the problem that kept the reranker away. Raises :class:`Problem` where another look at the versions helps."""
        dual = scoring.rank_dual(found.cosines, pair.model.scoring)
        nothing = np.zeros(0, np.float32)
        if features is None or not found.items:
            return dual, nothing, None
        try:
            with timings.stage("rerank"):
                logits = await self._encoder.rerank(asked, features, found.tokens[:depth], pair.model)
            return scoring.rank_cross(found.cosines, logits, pair.model.scoring, asked), logits, None
        except Problem as problem:
            if problem.slug == "unknown-version":
                raise
            log.warning("not reranked", reason=problem.detail)
            return dual, nothing, problem.slug

    async def candidates(
        self,
        pair: Pair,
        collection: Collection,
        vector: Floats,
        depth: int,
        *,
        with_tokens: bool,
        tags: Sequence[str],
        where: str,
    ) -> Candidates:
        """The ``depth`` items nearest to ``vector`` (D,). Of captions with the same words only the first counts, as one
        answer."""
        asked = depth
        while True:
            found = await self._index.search(
                collection, vector, asked, pair.index.ref, with_tokens=with_tokens, tags=tags, where=where
            )
            rows = list(_first_of_each(found.items, "caption")) if collection == "captions" else range(len(found.items))
            if len(rows) >= depth or len(found.items) < asked or asked == MOST_CANDIDATES:
                kept = list(rows)[:depth]
                return Candidates(
                    found.cosines[kept],
                    [found.items[row] for row in kept],
                    [found.tokens[row] for row in kept] if with_tokens else [],
                )
            asked = min(2 * asked, MOST_CANDIDATES)


def filter_text(said: str | Mapping[str, Any]) -> str:
    """A filter of metadata, in JSON or read from it, as the index is asked for it; empty when everything fits. Raises
    :class:`Problem`."""
    if not said:
        return ""
    try:
        where = Filter.parse(said) if isinstance(said, str) else Filter(said)
    except ValueError as error:
        raise Problem("invalid-request", str(error)) from error
    return "" if where.empty else where.text


def _without_reranker(ranking: Ranking, reason: str) -> Ranking:
    metrics.DEGRADED.labels(reason).inc()
    return ranking.model_copy(update={"model_type": "dual", "degraded": reason})


def _embedding_key(pair: Pair, query: Query) -> str:
    return f"{pair.model.fingerprint}:{query.digest}"


def _known(message: bytes | None, pair: Pair, with_tokens: bool) -> Embedding | None:
    if message is None:
        return None
    try:
        stored = Embedding.read(message, pair.model)
    except WireError:
        return None  # not ours, or damaged: made again and overwritten
    return stored if stored.tokens is not None or not with_tokens else None


def read_stored(kind: type[Document], message: bytes | None) -> Document | None:
    """What was cached; None for nothing, and for what is not ours or damaged, to be made again and overwritten."""
    try:
        return None if message is None else kind.model_validate_json(message)
    except ValidationError:
        return None


def _first_of_each(items: list[dict[str, Any]], field: str) -> Iterator[int]:
    """Rows of the items that are the first with their value of ``field``."""
    seen = set()
    for row, item in enumerate(items):
        if item.get(field) not in seen:
            seen.add(item.get(field))
            yield row
