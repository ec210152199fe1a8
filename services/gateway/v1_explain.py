"""``/v1/explain``: why a photo was found."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body
from fastapi.routing import APIRoute

from services.gateway.access import needs
from services.gateway.documents import described
from services.gateway.v1_search import ALWAYS
from services.gateway.wiring import Connected
from shared.schemas_v1 import ExplainAnswer, ExplainRequest

_EXAMPLES: dict[str, Any] = {
    "dog": {"summary": "Where is the dog?", "value": {"text": "a brown dog", "id": "5f2c0a9be1d34c77"}}
}


def v1_explain_routes(route_class: type[APIRoute]) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["search"], route_class=route_class, dependencies=[needs("read")])

    @router.post(
        "/explain",
        summary="Where in a photo each word is seen",
        responses=described(
            invalid_request="text: it has 0 words; 1 to 32 can be looked for",
            not_found="images has no item '0123'",
            **ALWAYS,
        ),
    )
    async def explain(
        gateway: Connected, asked: Annotated[ExplainRequest, Body(openapi_examples=_EXAMPLES)]
    ) -> ExplainAnswer:
        """For each word a grid over the whole photo: how much of the reranker's matching logit is lost when what is
        there is hidden, stretched to 0 to 1. `peak` is the highest loss: words that name nothing lose little
        anywhere."""
        return await gateway.explaining.explain(asked.text, asked.id)

    return router
