"""What people upload: pictures of every kind, and what is none or should not be decoded."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from PIL import Image

from tests.support.photos import draw, png_bomb

WHOLE = draw("tree", "green", "blue", (600, 400))


def file(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def turned() -> bytes:
    """The whole picture, lying on its side, and EXIF that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return file(WHOLE.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95)


PICTURES: dict[str, Callable[[], bytes]] = {
    "grey": lambda: file(Image.new("L", (30, 20), 90), "PNG"),
    "cmyk": lambda: file(Image.new("CMYK", (30, 20)), "JPEG"),
    "sixteen bits": lambda: file(Image.new("I;16", (30, 20), 40_000), "PNG"),
    "sixteen bits, TIFF": lambda: file(Image.new("I;16", (30, 20), 40_000), "TIFF"),
    "transparent": lambda: file(Image.new("RGBA", (30, 20), (9, 9, 9, 0)), "WEBP"),
    "animated": lambda: file(WHOLE, "GIF", save_all=True, append_images=[Image.new("L", WHOLE.size)]),
    "animated, WebP": lambda: file(WHOLE, "WEBP", save_all=True, append_images=[Image.new("RGB", WHOLE.size)]),
    "turned": turned,
    "one pixel": lambda: file(Image.new("RGB", (1, 1)), "BMP"),
    "thin": lambda: file(Image.new("RGB", (5000, 1)), "PNG"),
}
# With the status of the refusal.
NO_PICTURES: dict[str, tuple[Callable[[], bytes], int]] = {
    "nothing": (lambda: b"", 415),
    "text": (lambda: b"this is not a picture", 415),
    "zeros": (lambda: bytes(1000), 415),
    "svg": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415),
    "pdf": (lambda: b"%PDF-1.7\n1 0 obj\n", 415),
    "postscript": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 415),
    "cut off": (lambda: file(WHOLE, "JPEG")[:2000], 415),
    "damaged": (lambda: file(WHOLE, "PNG").replace(b"IDAT", b"IDAU"), 415),
    "a bomb": (lambda: file(Image.new("1", (12_000, 12_000)), "PNG"), 413),
    "a claim of 3.6 gigapixels": (lambda: png_bomb(60_000, 60_000), 413),
}
