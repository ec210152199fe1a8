"""The collection's photos: as their files are, and small."""

from __future__ import annotations

import asyncio
import io
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from PIL import Image, ImageOps

from services.gateway.cache import Cache
from services.gateway.coalesce import Coalescer
from services.gateway.neighbours import Index, PhotoFile
from services.gateway.pairing import Pair, Pairing
from shared.problems import Problem

Encoding = Literal["webp", "jpeg"]

# An id becomes part of a path on the index service, so it is one segment that is neither "." nor "..".
_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_QUALITY = 82


class Photos:
    """``sizes`` are the thumbnails on offer; no more than ``workers`` photos are decoded at the same time."""

    def __init__(
        self, index: Index, pairing: Pairing, cache: Cache, *, sizes: tuple[int, ...], workers: int = 2
    ) -> None:
        self._index = index
        self._pairing = pairing
        self._cache = cache
        self._sizes = sizes
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="thumbnail")
        self._in_flight: Coalescer[bytes] = Coalescer()

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def original(self, image_id: str) -> PhotoFile:
        """The photo's file. Raises :class:`Problem` ``not-found``."""
        check_id(image_id)
        return await self._pairing.run(lambda pair: self._index.photo(image_id, pair.index.ref))

    async def thumbnail(self, image_id: str, size: int, encoding: Encoding) -> bytes:
        """The photo, upright, fitted into ``size`` x ``size`` pixels; never enlarged. Raises :class:`Problem`."""
        check_id(image_id)
        if size not in self._sizes:
            offered = ", ".join(str(offer) for offer in self._sizes)
            raise Problem("invalid-request", f"there is no thumbnail of size {size}; ask for one of {offered}")
        return await self._pairing.run(lambda pair: self._thumbnail(image_id, pair, size, encoding))

    async def _thumbnail(self, image_id: str, pair: Pair, size: int, encoding: Encoding) -> bytes:
        key = f"{pair.key}:{image_id}:{size}:{encoding}"
        stored = await self._cache.get("thumbnails", key)
        if stored is not None:
            return stored
        return await self._in_flight.run(key, lambda: self._make(image_id, pair, size, encoding, key))

    async def _make(self, image_id: str, pair: Pair, size: int, encoding: Encoding, key: str) -> bytes:
        photo = await self._index.photo(image_id, pair.index.ref)
        try:
            small = await asyncio.get_running_loop().run_in_executor(self._threads, shrink, photo.data, size, encoding)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise Problem(
                "not-found",
                f"the file of photo {image_id} can no longer be read as a picture ({error}); index it again",
            ) from error
        await self._cache.put("thumbnails", key, small)
        return small


def check_id(image_id: str) -> None:
    """Raises :class:`Problem` ``not-found`` for what cannot be the id of a photo."""
    if not _ID.fullmatch(image_id):
        raise Problem("not-found", f"there is no photo {image_id[:80]!r}; ids come with search results")


def shrink(data: bytes, size: int, encoding: Encoding) -> bytes:
    """An image file made to fit into ``size`` x ``size`` pixels, turned upright, on white, without its metadata."""
    with Image.open(io.BytesIO(data)) as opened:
        opened.draft("RGB", (size, size))  # a JPEG is decoded at a fraction of its size where that suffices
        image = _rgb(ImageOps.exif_transpose(opened))
    image.thumbnail((size, size))
    out = io.BytesIO()
    image.save(out, encoding, quality=_QUALITY)
    return out.getvalue()


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a sample, which Pillow would clip and not scale
        return image.convert("I").point(lambda sample: sample / 257).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")
