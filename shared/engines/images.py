"""From an image file's bytes to the pixels that a model takes; what cannot or should not be decoded is refused."""

from __future__ import annotations

import io
import warnings
from contextlib import suppress
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from shared.artifacts import ImagePreprocessing

MAX_PIXELS = 100_000_000
# Over this Pillow refuses by itself.
PILLOW_MAX_PIXELS = 178_956_970
# Photographs' formats only: Pillow knows more, some of which start other programs. AVIF depends on its version.
Image.init()
_FORMATS = tuple(name for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF") if name in Image.OPEN)
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

# Pillow's remarks on damaged metadata and on sizes below our limit are nothing that an uploader's server needs to hear.
# For the whole process, because catch_warnings is not safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


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
    limit = f"over the limit of {max_pixels:,} pixels; send a smaller copy"
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=_FORMATS)
        width, height = image.size
        if width * height > max_pixels:
            raise ImageError(f"the image is {width:,} x {height:,}, {limit}", "image-too-large")
        if at_least is not None:
            image.draft("RGB", (at_least, at_least))
        image.load()
        with suppress(Exception):  # a photo whose EXIF cannot be read is still a photo
            ImageOps.exif_transpose(image, in_place=True)
        return _rgb(image)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        names = ", ".join(_FORMATS)
        raise ImageError(
            f"the {len(data)} bytes are not a whole image in a format that is read here: {names}"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"the image is {limit}", "image-too-large") from error
    except Exception as error:  # each of Pillow's decoders has its own ways to fail on damaged files
        raise ImageError(f"the image cannot be decoded, it may be damaged or incomplete: {error}") from error


def pixels(data: bytes, preprocessing: ImagePreprocessing, *, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """uint8 (size, size, 3), squashed to a square as the model was trained. Raises :class:`ImageError`.

    The shortcuts for large photos (a JPEG decoded at down to twice the target, and a gap of 3 in the resize) cost a
    sixth of the full way's time at 12 megapixels and move the embedding by a cosine of at most 0.0007.
    """
    size = preprocessing.size
    image = decode(data, max_pixels=max_pixels, at_least=2 * size)
    if image.size != (size, size):
        image = image.resize((size, size), _RESAMPLING[preprocessing.interpolation], reducing_gap=3.0)
    return np.asarray(image, np.uint8)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, also when held in 32
        return Image.fromarray((np.asarray(image) // 257).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image))
        return Image.fromarray((values * (255 if values.max() <= 1 else 1)).clip(0, 255).astype(np.uint8)).convert(
            "RGB"
        )
    if image.has_transparency_data:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        ground = Image.new("RGB", layer.size, "white")
        ground.paste(layer, mask=layer)
        return ground
    return image if image.mode == "RGB" else image.convert("RGB")
