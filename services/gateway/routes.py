"""The public routes: two searches, the photos, and what is being served."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Header, Request, Response, UploadFile
from fastapi.routing import APIRoute
from pydantic import BaseModel, StringConstraints

from services.gateway.access import REFUSALS, needs
from services.gateway.documents import described
from services.gateway.photos import Encoding
from services.gateway.search import Answer, Query, filter_text
from services.gateway.settings import GatewaySettings
from services.gateway.wiring import Connected, of
from shared.problems import Problem
from shared.schemas import (
    CaptionResult,
    Cutoff,
    ImageResult,
    ImageToTextResponse,
    ModelsResponse,
    ModelType,
    TextToImageResponse,
)
from shared.schemas_v1 import FILTER
from shared.scoring import Cut

_MULTIPART = "multipart/form-data"
_MODEL_TYPE = Form(
    "dual", media_type=_MULTIPART, description="Rank by the dual encoder alone, or let cross-attention rerank its best."
)
_MIN_SCORE = Form(
    0.0,
    media_type=_MULTIPART,
    ge=0,
    le=1,
    allow_inf_nan=False,
    description="Leave out results that are a match with a probability (`score`) below this.",
)
_CUTOFF = Form(
    "none",
    media_type=_MULTIPART,
    description="With `auto` the list ends where its expected F1 is highest, judged by the scores of the `k` best. "
    "The best one is always kept: what is cut is a tail.",
)
Tag = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
# Not a factory: FastAPI looks up its signature at every request, which takes a fifth of it.
_TAGS = Form((), media_type=_MULTIPART, max_length=20, description="Only what has all these tags.")
_FILTER = Form("", media_type=_MULTIPART, description=f"JSON. {FILTER}", examples=['{"year": {"gte": 2020}}'])
_ALWAYS = {
    **REFUSALS,
    "overloaded": "64 requests are being worked on; ask again in a second",
    "neighbour_unavailable": "the encoder at http://127.0.0.1:8001 does not answer: start it, or correct its URL",
}
_PHOTO_CACHING = "private, max-age=3600"


def search_routes(settings: GatewaySettings, route_class: type[APIRoute]) -> APIRouter:
    router = APIRouter(tags=["search"], route_class=route_class, dependencies=[needs("read")])
    k_field = Form(
        5,
        media_type=_MULTIPART,
        ge=1,
        le=settings.max_k,
        description="How many results; fewer come when there are no more.",
    )
    text_field = Form(
        media_type=_MULTIPART,
        min_length=1,
        max_length=settings.max_text_chars,
        description="What the photo should show, in words.",
        examples=["a dog running on the beach"],
    )
    image_field = File(description="A picture: JPEG, PNG, WebP, GIF, BMP or TIFF.")

    @router.post(
        "/text-to-image",
        response_model=TextToImageResponse,
        summary="Find photos by words",
        responses=described(
            invalid_request="k: Input should be greater than or equal to 1, not '0'",
            body_too_large=f"the request body is over the limit of {settings.max_upload_bytes} bytes; send less",
            **_ALWAYS,
        ),
    )
    async def text_to_image(
        request: Request,
        text: str = text_field,
        model_type: ModelType = _MODEL_TYPE,
        k: int = k_field,
        min_score: float = _MIN_SCORE,
        cutoff: Cutoff = _CUTOFF,
        tag: list[Tag] = _TAGS,
        filter: str = _FILTER,  # noqa: A002
    ) -> Response:
        """Photos of the collection, best match first.

        With `model_type=cross` the best of the dual encoder are reranked by cross-attention. When that cannot be had,
        the dual encoder's answer comes, with `degraded` true, and the header `X-Diptych-Degraded` names the problem.

        Scores are calibrated probabilities, so a list can end where matches do: `min_score` and `cutoff` take its tail
        away, and `left_out` counts what they took.
        """
        words = text.strip()
        if not words:
            raise Problem("invalid-request", f"text is blank ({text[:20]!r}): write what the photo should show")
        query = Query(words, tuple(tag), filter_text(filter))
        answer = await of(request).search.answer(query, model_type, k, Cut(min_score, cutoff))
        results = [
            ImageResult(
                image_path=f"/images/{hit.item['id']}",
                image_name=hit.item["name"],
                score=hit.score,
                image_id=hit.item["id"],
                thumbnail_path=f"/images/{hit.item['id']}/thumbnail",
            )
            for hit in answer.ranking.hits
        ]
        return _response(answer, TextToImageResponse(query=text, results=results, **_about(answer)))

    @router.post(
        "/image-to-text",
        response_model=ImageToTextResponse,
        summary="Find captions by a picture",
        responses=described(
            invalid_request="image: Field required",
            invalid_image="'notes.txt' is empty: send the bytes of a picture",
            image_too_large="the picture has 400,000,000 pixels, over the limit; send a smaller one",
            body_too_large=f"the request body is over the limit of {settings.max_upload_bytes} bytes; send less",
            **_ALWAYS,
        ),
    )
    async def image_to_text(
        request: Request,
        image: UploadFile = image_field,
        model_type: ModelType = _MODEL_TYPE,
        k: int = k_field,
        min_score: float = _MIN_SCORE,
        cutoff: Cutoff = _CUTOFF,
        tag: list[Tag] = _TAGS,
        filter: str = _FILTER,  # noqa: A002
    ) -> Response:
        """Captions of the collection, best match first; of captions with the same words only one.

        `model_type`, `min_score` and `cutoff` work as they do for `/text-to-image`.
        """
        name = (image.filename or "image")[:255]
        data = await image.read()
        if not data:
            raise Problem("invalid-image", f"{name!r} is empty: send the bytes of a picture")
        if len(data) > settings.max_upload_bytes:
            raise Problem(
                "body-too-large",
                f"{name!r} has {len(data):,} bytes, the limit is {settings.max_upload_bytes:,}: send a smaller picture",
            )
        query = Query(data, tuple(tag), filter_text(filter))
        answer = await of(request).search.answer(query, model_type, k, Cut(min_score, cutoff))
        results = [
            CaptionResult(
                caption=hit.item["caption"],
                score=hit.score,
                caption_id=hit.item["id"],
                image_id=hit.item.get("image_id"),
            )
            for hit in answer.ranking.hits
        ]
        return _response(answer, ImageToTextResponse(query_image=name, results=results, **_about(answer)))

    return router


def photo_routes(settings: GatewaySettings, route_class: type[APIRoute]) -> APIRouter:
    router = APIRouter(tags=["photos"], route_class=route_class, dependencies=[needs("read")])
    photo_problems = described(not_found="there is no photo '0123'; ids come with search results", **_ALWAYS)
    default_size = 256 if 256 in settings.thumbnail_sizes else settings.thumbnail_sizes[0]

    @router.get(
        "/images/{image_id}",
        summary="A photo of the collection",
        response_class=Response,
        responses={200: {"content": {"image/*": {}}}, 304: {"description": "Unchanged"}, **photo_problems},
    )
    async def image(gateway: Connected, image_id: str, if_none_match: Annotated[str, Header()] = "") -> Response:
        """The file as it was indexed."""
        photo = await gateway.photos.original(image_id)
        return _photo(photo.data, photo.media_type, if_none_match)

    @router.get(
        "/images/{image_id}/thumbnail",
        summary="A photo, small",
        response_class=Response,
        responses={
            200: {"content": {"image/jpeg": {}, "image/webp": {}}},
            304: {"description": "Unchanged"},
            **photo_problems,
            **described(invalid_request="there is no thumbnail of size 300; ask for one of 128, 256, 512"),
        },
    )
    async def thumbnail(
        gateway: Connected,
        image_id: str,
        size: int = default_size,
        accept: Annotated[str, Header()] = "",
        if_none_match: Annotated[str, Header()] = "",
    ) -> Response:
        """The photo, upright, fitted into `size` x `size` pixels: WebP for who accepts it by name, JPEG for others."""
        encoding: Encoding = "webp" if "image/webp" in accept else "jpeg"
        data = await gateway.photos.thumbnail(image_id, size, encoding)
        return _photo(data, f"image/{encoding}", if_none_match, Vary="Accept")

    return router


def model_routes() -> APIRouter:
    router = APIRouter(tags=["models"], dependencies=[needs("read")])

    @router.get("/models", summary="What is being served", responses=described(**REFUSALS))
    async def models(gateway: Connected) -> ModelsResponse:
        """The versions that answer now (`current`, `index`), and all that the services have in memory, with the figures
        that the models were measured at. Before the services have been heard from the lists are empty."""
        pairing = gateway.pairing
        if pairing.current is None:
            await pairing.refresh()
        pair, encoder, index = pairing.current, pairing.encoder, pairing.index
        return ModelsResponse(
            current=pair.model.ref if pair else None,
            index=pair.index.ref if pair else None,
            models=encoder.models if encoder else [],
            indexes=index.indexes if index else [],
        )

    return router


def _about(answer: Answer) -> dict[str, Any]:
    """The fields that both searches answer beside their results."""
    ranking = answer.ranking
    return {
        "model_type": ranking.model_type,
        "model_version": ranking.model,
        "index_version": ranking.index,
        "degraded": ranking.degraded is not None,
        "left_out": answer.left_out,
        "cached": answer.cached,
        "timings_ms": answer.milliseconds,
    }


def _response(answer: Answer, document: BaseModel) -> Response:
    degraded = answer.ranking.degraded
    headers = {} if degraded is None else {"X-Diptych-Degraded": degraded}
    return Response(document.model_dump_json(), headers=headers, media_type="application/json")


def _photo(data: bytes, media_type: str, if_none_match: str, **headers: str) -> Response:
    etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": _PHOTO_CACHING, "X-Content-Type-Options": "nosniff", **headers}
    known = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    if etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=media_type, headers=headers)
