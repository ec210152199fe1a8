"""Searches of ``/v1``: several weighted terms asked as one, paged, and explained.

The query is the normalised weighted sum of the terms' unit embeddings, ``q = s / |s|`` with ``s = sum(w_i * t_i)``, so
that what each term adds to a result ``x``, ``w_i * (t_i @ x) / |s|``, sums to its cosine.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel

from services.gateway import metrics
from services.gateway.cache import Cache
from services.gateway.coalesce import Coalescer
from services.gateway.metrics import Timings
from services.gateway.neighbours import Candidates, Index, Modality
from services.gateway.pairing import Pair, Pairing
from services.gateway.photos import check_id
from services.gateway.search import MOST_CANDIDATES, Floats, Query, Search, read_stored
from shared.problems import Problem
from shared.schemas import ModelType
from shared.schemas_v1 import Target, Term
from shared.tokens import TokenFeatures

Origin = Literal["cache", "encoder", "index"]

# Below this length of the sum, rounding decides where it points.
_SHORTEST = 1e-3


@dataclass(frozen=True)
class Question:
    terms: tuple[Term, ...]
    target: Target
    model_type: ModelType
    tags: tuple[str, ...] = ()
    where: str = ""

    @property
    def reranked_by(self) -> int | None:
        """The term whose tokens cross-attention looks at candidates with: the only one that is wanted and is of the
        other kind than the target. None when there is none or there are several."""
        fitting = [n for n, term in enumerate(self.terms) if term.weight > 0 and modality(term) != _KIND[self.target]]
        return fitting[0] if len(fitting) == 1 else None

    @property
    def calibrated(self) -> bool:
        """Whether scores are probabilities: the model was calibrated on single texts and single pictures."""
        return len(self.terms) == 1 and self.reranked_by == 0

    @cached_property
    def digest(self) -> str:
        terms = [[kind(term), _content(term), term.weight] for term in self.terms]
        said = json.dumps([terms, self.target, self.model_type, sorted(self.tags), self.where])
        return hashlib.sha256(said.encode()).hexdigest()


class Row(BaseModel):
    """An item of the index; ``score`` is meant as a probability only where the question is calibrated."""

    item: dict[str, Any]
    cosine: float
    score: float
    logit: float | None = None


class Ranking(BaseModel):
    """The best, in order. ``degraded`` says why the reranker that was asked for has not ranked them."""

    model_type: ModelType
    model: str
    index: str
    rows: list[Row]
    degraded: str | None = None


@dataclass(frozen=True)
class Terms:
    """Embedded: unit ``vectors`` (n, D), the query ``vector`` (D,), the ``length`` of the sum that it was made of,
    each term's ``origins``, and the ``tokens`` to rerank with when they were asked for."""

    vectors: Floats
    vector: Floats
    length: float
    origins: list[Origin]
    tokens: TokenFeatures | None


@dataclass(frozen=True)
class Result:
    """``terms`` and the rows' ``parts`` (rows, terms), the cosine of each with each, come where they were wanted."""

    ranking: Ranking
    cached: bool
    milliseconds: dict[str, float]
    terms: Terms | None = None
    parts: Floats | None = None


class Composed:
    """``rerank_depth`` of the nearest are reranked whatever page is asked for, so that pages fit together."""

    def __init__(self, search: Search, index: Index, pairing: Pairing, cache: Cache, *, rerank_depth: int) -> None:
        self._search = search
        self._index = index
        self._pairing = pairing
        self._cache = cache
        self._rerank_depth = rerank_depth
        self._in_flight: Coalescer[tuple[Ranking, Terms]] = Coalescer()

    async def answer(self, question: Question, count: int, explained: slice | None = None) -> Result:
        """The ``count`` best, fewer where there are no more; those in ``explained`` with their parts. Photos that the
        question names are not among them. Raises :class:`Problem`."""
        for term in question.terms:
            if term.id is not None:
                check_id(term.id)
        timings = Timings()
        with timings.stage("total"):
            return await self._pairing.run(lambda pair: self._by(pair, question, count, explained, timings))

    async def _by(
        self, pair: Pair, question: Question, count: int, explained: slice | None, timings: Timings
    ) -> Result:
        key = f"{pair.key}:{question.digest}:{count}"
        terms = None
        with timings.stage("cache"):
            ranking = read_stored(Ranking, await self._cache.get("composed", key))
        if cached := ranking is not None:
            if explained is not None:
                terms = await self._embed(pair, question, False, timings)
        else:
            ranking, terms = await self._in_flight.run(key, lambda: self._rank(pair, question, count, key, timings))
        if explained is None or terms is None:
            return Result(ranking, cached, timings.milliseconds)
        rows = ranking.rows[explained]
        with timings.stage("explain"):
            parts = np.zeros((0, len(question.terms)), np.float32)
            if rows:
                ids = [row.item["id"] for row in rows]
                found = await self._index.embeddings(
                    question.target, ids, pair.model, pair.index.ref, with_tokens=False
                )
                parts = found.vectors @ terms.vectors.T
        return Result(ranking, cached, timings.milliseconds, terms, parts)

    async def _rank(
        self, pair: Pair, question: Question, count: int, key: str, timings: Timings
    ) -> tuple[Ranking, Terms]:
        wanted = question.model_type == "cross"
        reason = None
        if wanted and not pair.model.has_reranker:
            reason = "no-reranker"
        elif wanted and question.reranked_by is None:
            reason = "no-single-term"
        rerank = wanted and reason is None
        terms = await self._embed(pair, question, rerank, timings)
        found = await self._candidates(pair, question, terms, max(count, self._rerank_depth * rerank), rerank, timings)
        asked = modality(question.terms[question.reranked_by or 0])
        (order, scores), logits, degraded = await self._search.ranked(
            pair, asked, terms.tokens, found, self._rerank_depth, timings
        )
        reason = reason or degraded
        if reason is not None:
            metrics.DEGRADED.labels(reason).inc()
        rows = [
            Row(
                item=found.items[row],
                cosine=float(found.cosines[row]),
                score=float(score),
                logit=float(logits[row]) if row < len(logits) else None,
            )
            for row, score in zip(order[:count], scores[:count], strict=True)
        ]
        ranking = Ranking(
            model_type="cross" if wanted and reason is None else "dual",
            model=pair.model.ref,
            index=pair.index.ref,
            rows=rows,
            degraded=reason,
        )
        if reason in (None, "no-reranker", "no-single-term"):
            with timings.stage("cache"):
                await self._cache.put("composed", key, ranking.model_dump_json().encode())
        return ranking, terms

    async def _candidates(
        self, pair: Pair, question: Question, terms: Terms, depth: int, with_tokens: bool, timings: Timings
    ) -> Candidates:
        named = {term.id for term in question.terms if term.id is not None} if question.target == "images" else set()
        with timings.stage("search"):
            found = await self._search.candidates(
                pair,
                question.target,
                terms.vector,
                min(depth + len(named), MOST_CANDIDATES),
                with_tokens=with_tokens,
                tags=question.tags,
                where=question.where,
            )
        rows = [row for row, item in enumerate(found.items) if item["id"] not in named][:depth]
        tokens = [found.tokens[row] for row in rows] if with_tokens else []
        return Candidates(found.cosines[rows], [found.items[row] for row in rows], tokens)

    async def _embed(self, pair: Pair, question: Question, rerank: bool, timings: Timings) -> Terms:
        with timings.stage("terms"):
            made = await asyncio.gather(
                *(
                    self._term(pair, term, with_tokens=rerank and n == question.reranked_by)
                    for n, term in enumerate(question.terms)
                )
            )
        vectors = np.stack([vector for vector, _, _ in made])
        total = np.array([term.weight for term in question.terms], np.float32) @ vectors
        length = float(np.linalg.norm(total))
        if length < _SHORTEST:
            raise Problem("invalid-request", "query: the terms cancel each other out: change a weight or a term")
        features = made[question.reranked_by][1] if rerank and question.reranked_by is not None else None
        return Terms(vectors, total / length, length, [origin for _, _, origin in made], features)

    async def _term(self, pair: Pair, term: Term, *, with_tokens: bool) -> tuple[Floats, TokenFeatures | None, Origin]:
        if term.id is not None:
            found = await self._index.embeddings(
                "images", [term.id], pair.model, pair.index.ref, with_tokens=with_tokens
            )
            return found.vectors[0], found.tokens[0] if with_tokens else None, "index"
        own = Timings()
        content = term.text if term.text is not None else term.image
        assert content is not None
        embedding = await self._search.embed(pair, Query(content), with_tokens, own)
        return embedding.vector, embedding.tokens, "encoder" if "encode" in own.milliseconds else "cache"


_KIND: dict[Target, Modality] = {"images": "image", "captions": "text"}


def modality(term: Term) -> Modality:
    return "image" if term.text is None else "text"


def kind(term: Term) -> Literal["text", "image", "id"]:
    return "id" if term.id is not None else modality(term)


def _content(term: Term) -> str:
    return term.id or hashlib.sha256(term.image or (term.text or "").encode()).hexdigest()
