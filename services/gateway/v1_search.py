"""``/v1/search`` and ``/v1/captions``: what the seed interface has no words for."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Body, Response
from fastapi.routing import APIRoute

from services.gateway.access import REFUSALS, needs
from services.gateway.composed import Question, Result, Row, kind
from services.gateway.documents import described
from services.gateway.search import filter_text
from services.gateway.settings import GatewaySettings
from services.gateway.wiring import Connected, Gateway
from shared.problems import Problem
from shared.schemas_v1 import (
    CaptionsRequest,
    Explanation,
    Found,
    Page,
    SearchAnswer,
    SearchRequest,
    Target,
    Term,
    TermOrigin,
    TermPart,
)
from shared.scoring import Cut

EXAMPLES: dict[str, Any] = {
    "words": {"summary": "Photos for words", "value": {"query": [{"text": "a dog on the beach"}], "k": 5}},
    "without": {
        "summary": "Like this photo, with snow, without people",
        "value": {
            "query": [
                {"id": "5f2c0a9be1d34c77"},
                {"text": "snow", "weight": 0.5},
                {"text": "people", "weight": -0.5},
            ],
            "explain": True,
        },
    },
    "likely": {
        "summary": "Only what is likely a match, reranked, the second page",
        "value": {
            "query": [{"text": "two dogs playing"}],
            "model_type": "cross",
            "min_score": 0.5,
            "k": 20,
            "offset": 20,
        },
    },
    "captions": {
        "summary": "Captions for a picture",
        "value": {"query": [{"image": "iVBORw0KGgoAAAANSUhEUg..."}], "target": "captions"},
    },
}
CAPTION_EXAMPLES: dict[str, Any] = {
    "upload": {"summary": "Of a picture", "value": {"image": "iVBORw0KGgoAAAANSUhEUg...", "k": 3}},
    "stored": {"summary": "Of a photo of the collection", "value": {"id": "5f2c0a9be1d34c77", "cutoff": "auto"}},
}
ALWAYS = {
    **REFUSALS,
    "invalid_image": "the 12 bytes are not a whole image in a format that is read here: JPEG, PNG, WEBP",
    "image_too_large": "the picture has 400,000,000 pixels, over the limit; send a smaller one",
    "body_too_large": "the request body is over the limit of 28000000 bytes; send less at a time",
    "overloaded": "64 requests are being worked on; ask again in a second",
    "neighbour_unavailable": "the encoder at http://127.0.0.1:8001 does not answer: start it, or correct its URL",
}


def v1_search_routes(settings: GatewaySettings, route_class: type[APIRoute]) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["search"], route_class=route_class, dependencies=[needs("read")])

    @router.post(
        "/search",
        summary="Find photos or captions by words, pictures, or both",
        responses=described(
            invalid_request="query: at least one term needs a weight over 0",
            not_found="images has no item '0123'",
            **ALWAYS,
        ),
    )
    async def search(
        gateway: Connected,
        response: Response,
        asked: Annotated[SearchRequest, Body(openapi_examples=EXAMPLES)],
    ) -> SearchAnswer:
        """Best match first. The terms are asked as one: the normalised sum of their unit embeddings times their
        weights. A negative weight pushes away. A stored photo (`id`) is not embedded again, and is not among the photos
        that are found.

        `score` is a calibrated probability when the query is one text (for photos) or one picture (for captions). For
        all others it is null, and results are to be compared by their `similarity`.

        With `model_type=cross` the best 50 are reranked by cross-attention, which can look for one thing: the only text
        with a positive weight when photos are searched, the only picture when captions are. With none or several the
        answer is the dual encoder's, `degraded_reason` being `no-single-term`.

        Pages fit together as long as the collection does not change.
        """
        return await _answer(gateway, response, settings, tuple(asked.query), asked.target, asked)

    @router.post(
        "/captions",
        summary="Find captions for a picture",
        responses=described(invalid_request="send either image or id", not_found="images has no item '0123'", **ALWAYS),
    )
    async def captions(
        gateway: Connected,
        response: Response,
        asked: Annotated[CaptionsRequest, Body(openapi_examples=CAPTION_EXAMPLES)],
    ) -> SearchAnswer:
        """Captions of the whole collection, best match first. What was written for one photo is in
        `/v1/images/{image_id}`."""
        return await _answer(gateway, response, settings, (Term(image=asked.image, id=asked.id),), "captions", asked)

    return router


async def _answer(
    gateway: Gateway,
    response: Response,
    settings: GatewaySettings,
    terms: tuple[Term, ...],
    target: Target,
    page: Page,
) -> SearchAnswer:
    question = Question(terms, target, page.model_type, tuple(page.tags), filter_text(page.filter))
    end = page.offset + page.k
    if end > settings.max_k:
        raise Problem(
            "invalid-request",
            f"k: offset {page.offset} and k {page.k} reach past the {settings.max_k} best results, which is the limit",
        )
    if not question.calibrated and (page.min_score is not None or page.cutoff != "none"):
        raise Problem(
            "invalid-request",
            "min_score: scores are probabilities only for one text, or one picture to captions; for others use "
            "min_similarity, and no cutoff",
        )
    # One more than is shown tells whether there is another page.
    result = await gateway.composed.answer(question, end + 1, slice(page.offset, end) if page.explain else None)
    rows = result.ranking.rows
    reach = min(end, len(rows))
    kept = reach
    if question.calibrated:
        kept = Cut(page.min_score or 0.0, page.cutoff).kept(np.array([row.score for row in rows[:reach]]))
    found = [
        _found(question, result, row, place)
        for place, row in enumerate(rows[page.offset : kept])
        if page.min_similarity is None or row.cosine >= page.min_similarity
    ]
    left_out = max(0, reach - page.offset) - len(found)
    ended = kept < reach or (left_out > 0 and result.ranking.model_type == "dual")
    more = len(rows) > end and end < settings.max_k and not ended
    if result.ranking.degraded is not None:
        response.headers["X-Diptych-Degraded"] = result.ranking.degraded
    return SearchAnswer(
        model_type=result.ranking.model_type,
        model_version=result.ranking.model,
        index_version=result.ranking.index,
        degraded=result.ranking.degraded is not None,
        degraded_reason=result.ranking.degraded,
        calibrated=question.calibrated,
        left_out=left_out,
        cached=result.cached,
        timings_ms=result.milliseconds,
        next_offset=end if more else None,
        results=found,
        query=_origins(question, result) if page.explain else None,
    )


def _origins(question: Question, result: Result) -> list[TermOrigin]:
    assert result.terms is not None
    return [
        TermOrigin(kind=kind(term), weight=term.weight, embedding=origin)
        for term, origin in zip(question.terms, result.terms.origins, strict=True)
    ]


def _found(question: Question, result: Result, row: Row, place: int) -> Found:
    item, target = row.item, question.target
    image_id = item["id"] if target == "images" else item.get("image_id")
    path = None if image_id is None else f"/images/{image_id}"
    return Found(
        id=item["id"],
        score=row.score if question.calibrated else None,
        similarity=row.cosine,
        caption=item.get("caption"),
        image_id=image_id,
        image_name=item.get("name"),
        image_path=path,
        thumbnail_path=path and f"{path}/thumbnail",
        tags=item.get("tags") or [],
        metadata=item.get("metadata") or {},
        explanation=_explanation(question, result, row, place),
    )


def _explanation(question: Question, result: Result, row: Row, place: int) -> Explanation | None:
    if result.terms is None or result.parts is None:
        return None
    cosines, length = result.parts[place], result.terms.length
    return Explanation(
        cosine=row.cosine,
        logit=row.logit,
        terms=[
            TermPart(cosine=float(cosine), contribution=term.weight * float(cosine) / length)
            for term, cosine in zip(question.terms, cosines, strict=True)
        ],
    )
