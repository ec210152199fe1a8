"""The public routes that change the collection and say what is in it."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Query, Response, UploadFile
from fastapi.routing import APIRoute
from pydantic import StringConstraints

from services.gateway.access import REFUSALS, needs
from services.gateway.collection import NewImage
from services.gateway.documents import described
from services.gateway.routes import Tag
from services.gateway.settings import GatewaySettings
from services.gateway.wiring import Connected
from shared.problems import Problem
from shared.schemas import ChangedImage, ImagesPage, StoredImage

_MOST_METADATA = 16_384
Caption = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=10_000)]

_ALWAYS = {
    **REFUSALS,
    "overloaded": "256 changes wait to be written; try again",
    "neighbour_unavailable": "the index at http://127.0.0.1:8002 does not answer: start it, or correct its URL",
}


def collection_routes(settings: GatewaySettings, route_class: type[APIRoute]) -> APIRouter:
    router = APIRouter(prefix="/v1/images", tags=["collection"], route_class=route_class)
    refusals = described(
        invalid_request="metadata: Expecting value: line 1 column 1 (char 0)",
        invalid_image="the 12 bytes are not a whole image in a format that is read here: JPEG, PNG, WEBP",
        image_too_large="the picture has 400,000,000 pixels, over the limit; send a smaller one",
        body_too_large=f"the request body is over the limit of {settings.max_upload_bytes} bytes; send less",
        storage_full="the disk of the index service is full: make room; what was stored before is safe",
        read_only="another process writes to the library: stop it first",
        **_ALWAYS,
    )
    file = File(description="A picture: JPEG, PNG, WebP, GIF, BMP or TIFF. Stored as it comes.")
    captions_field = Form(
        default_factory=list, max_length=100, description="What the photo shows, each in its own field."
    )
    tags_field = Form(default_factory=list, max_length=100)
    metadata_field = Form("{}", description="A JSON object of your own, up to 16 KB.")
    name_field = Form(None, max_length=255, description="A name to show; the upload's file name when left out.")

    async def store(
        gateway: Connected,
        response: Response,
        image: UploadFile,
        image_id: str | None,
        captions: list[str],
        tags: list[str],
        metadata: str,
        name: str | None,
    ) -> ChangedImage:
        data = await image.read()
        shown = (name or image.filename or "image")[:255]
        if len(data) > settings.max_upload_bytes:
            raise Problem(
                "body-too-large",
                f"{shown!r} has {len(data):,} bytes, the limit is {settings.max_upload_bytes:,}: send a smaller one",
            )
        new = NewImage(data, shown, image_id, captions, tags, _metadata(metadata))
        changed = await gateway.collection.put(new)
        response.status_code = 201 if changed.status == "created" else 200
        return changed

    @router.post(
        "",
        summary="Add a photo",
        status_code=201,
        dependencies=[needs("write")],
        responses={200: {"model": ChangedImage}, **refusals},
    )
    async def add(
        gateway: Connected,
        response: Response,
        image: UploadFile = file,
        caption: list[Caption] = captions_field,
        tag: list[Tag] = tags_field,
        metadata: str = metadata_field,
        name: str | None = name_field,
    ) -> ChangedImage:
        """It can be searched, and is safe on the disk, when the answer comes. Its content gives it its id, so that
        adding it twice changes nothing; `duplicates` tells of other photos that are the same or look the same."""
        return await store(gateway, response, image, None, caption, tag, metadata, name)

    @router.put(
        "/{image_id}",
        summary="Add a photo under an id of yours, or replace it",
        dependencies=[needs("write")],
        responses={201: {"model": ChangedImage}, **refusals},
    )
    async def put(
        gateway: Connected,
        response: Response,
        image_id: str,
        image: UploadFile = file,
        caption: list[Caption] = captions_field,
        tag: list[Tag] = tags_field,
        metadata: str = metadata_field,
        name: str | None = name_field,
    ) -> ChangedImage:
        """Sending the same again changes nothing, so whoever did not hear an answer can safely ask again."""
        return await store(gateway, response, image, image_id, caption, tag, metadata, name)

    not_found = described(not_found="there is no image 'beach-1'", **_ALWAYS)

    @router.delete(
        "/{image_id}",
        summary="Remove a photo",
        status_code=204,
        dependencies=[needs("write")],
        responses={**not_found, **refusals},
    )
    async def remove(gateway: Connected, image_id: str) -> None:
        """With its captions. It stays away when the index is built anew from the folder that it came from."""
        await gateway.collection.remove(image_id)

    @router.get(
        "",
        summary="The photos of the collection",
        dependencies=[needs("read")],
        responses=described(invalid_request="limit: Input should be greater than or equal to 1, not '0'", **_ALWAYS),
    )
    async def page(
        gateway: Connected,
        after: Annotated[str, Query(max_length=128, description="`next` of the page before.")] = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> ImagesPage:
        """By id."""
        return await gateway.collection.page(after, limit)

    @router.get("/{image_id}", summary="What is known of a photo", dependencies=[needs("read")], responses=not_found)
    async def about(gateway: Connected, image_id: str) -> StoredImage:
        return await gateway.collection.about(image_id)

    return router


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


def _metadata(text: str) -> dict[str, Any]:
    if len(text) > _MOST_METADATA:
        raise Problem("invalid-request", f"metadata: {len(text):,} characters, the limit is {_MOST_METADATA:,}")
    try:
        value = json.loads(text, parse_constant=_no_number)
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair can be written in JSON, but not stored
    except (ValueError, RecursionError) as error:
        raise Problem("invalid-request", f"metadata: it is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise Problem("invalid-request", f"metadata: a JSON object is needed, not {type(value).__name__}")
    return value
