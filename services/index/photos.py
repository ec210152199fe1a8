"""Routes that say what photos a collection holds, and hand them out."""

from __future__ import annotations

import asyncio
import hashlib
import io
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from PIL import Image

from shared.collections import IndexDirectory
from shared.docs import gives
from shared.problems import Problem
from shared.watch import VersionWatcher

IndexRef = Annotated[str | None, Query(description="name/version; the current one when left out")]
ImageId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$")]


def photo_routes(watcher: VersionWatcher[IndexDirectory]) -> APIRouter:
    router = APIRouter()

    @router.get("/images", summary="Photos of the collection, by id")
    async def page(
        index: IndexRef = None,
        after: Annotated[str, Query(description="The last id of the page before.")] = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> dict[str, Any]:
        _, found = watcher.get(index)

        def read() -> list[dict[str, Any]]:
            return [found.about(image_id) for image_id in found.page(after, limit)]

        return {"images": await asyncio.to_thread(read)}

    @router.get("/images/{image_id}", summary="What is known of a photo")
    async def about(image_id: ImageId, index: IndexRef = None) -> dict[str, Any]:
        return await known(watcher.get(index)[1], image_id)

    @router.get("/pending", summary="Photos that this index's model has not seen yet")
    async def pending(index: IndexRef = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> dict[str, Any]:
        _, found = watcher.get(index)
        waiting = sorted(found.pending.items(), key=lambda entry: entry[1])[:limit]
        return {"images": [{"id": image_id, "seq": seq} for image_id, seq in waiting]}

    @router.get(
        "/images/{image_id}/content", summary="A photo's file", response_class=Response, responses=gives("image/*")
    )
    async def content(image_id: str, index: IndexRef = None) -> Response:
        _, found = watcher.get(index)
        try:
            data, media_type = await asyncio.to_thread(_photo, found, image_id)
        except KeyError as error:
            raise Problem("not-found", f"there is no image {image_id!r}") from error
        except OSError as error:
            raise Problem("not-found", f"the file of image {image_id} cannot be read: {error}") from error
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()[:32]}"', "Cache-Control": "no-cache"}
        return Response(data, media_type=media_type, headers=headers)

    return router


async def known(index: IndexDirectory, image_id: str) -> dict[str, Any]:
    """What is known of a photo. Raises :class:`Problem` ``not-found``."""
    try:
        return await asyncio.to_thread(index.about, image_id)
    except KeyError as error:
        raise Problem("not-found", f"there is no image {image_id!r}") from error


def _photo(index: IndexDirectory, image_id: str) -> tuple[bytes, str]:
    """The file's bytes and media type. Raises OSError when it is not the photo that was indexed."""
    data = index.content(image_id)
    with Image.open(io.BytesIO(data)) as image:  # reads the header only
        return data, image.get_format_mimetype() or "application/octet-stream"
