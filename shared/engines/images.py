"""From an image file's bytes to the pixels that a model takes; what cannot or should not be decoded is refused."""

from __future__ import annotations

import io
import warnings
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from shared.artifacts import ImagePreprocessing

MAX_PIXELS = 100_000_000
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


class ImageError(ValueError):
    """Bytes that are not a usable image. ``slug`` is the problem type that fits."""

    def __init__(self, message: str, slug: Literal["invalid-image", "image-too-large"] = "invalid-image") -> None:
        super().__init__(message)
        self.slug = slug


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, at_least: int | None = None) -> Image.Image:
    """An upright RGB image: EXIF orientation applied, alpha laid on white, 16 bits cut to 8, the first frame of many.

    The size is read from the header and refused over ``max_pixels`` before a pixel is decoded. With ``at_least`` a JPEG
    is decoded at the smallest scale whose sides are both at least that many pixels. Raises :class:`ImageError`.
    """
    if not data:
        raise ImageError("the image is empty: 0 bytes were received")
    try:
        with warnings.catch_warnings():
            # Our own limit is checked below, from the same header.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(io.BytesIO(data))
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError(
                    f"the image has {width} x {height} pixels, over the limit of {max_pixels:,}; send a smaller copy",
                    "image-too-large",
                )
            if at_least is not None and image.format == "JPEG":
                image.draft("RGB", (at_least, at_least))
            image.load()
            return _rgb(ImageOps.exif_transpose(image))
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(
            f"the {len(data)} bytes are not an image in a format that can be read (JPEG, PNG, WebP ...)"
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"the image is too large to decode: {error}", "image-too-large") from error
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, TypeError, IndexError) as error:
        # What Pillow's decoders raise on damaged files, in their own words.
        raise ImageError(f"the image is damaged or incomplete: {error}") from error


def pixels(data: bytes, preprocessing: ImagePreprocessing, *, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """uint8 (size, size, 3), squashed to a square as the model was trained. Raises :class:`ImageError`."""
    size = preprocessing.size
    # Twice the target keeps the resize's own filter in charge of what is seen.
    image = decode(data, max_pixels=max_pixels, at_least=2 * size)
    if image.size != (size, size):
        image = image.resize((size, size), _RESAMPLING[preprocessing.interpolation], reducing_gap=3.0)
    return np.asarray(image, np.uint8)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):
        samples = np.asarray(image, np.float64)
        return Image.fromarray((samples / 257).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        return Image.fromarray(np.nan_to_num(np.asarray(image)).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(ground, layer).convert("RGB")
    return image.convert("RGB")
