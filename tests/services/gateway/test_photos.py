import io

import numpy as np
import pytest
from PIL import Image

from services.gateway.photos import Encoding, shrink


def file_of(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def shrunk(data: bytes, size: int = 128, encoding: Encoding = "jpeg") -> Image.Image:
    image = Image.open(io.BytesIO(shrink(data, size, encoding)))
    assert image.format == {"jpeg": "JPEG", "webp": "WEBP"}[encoding]
    assert image.mode == "RGB"
    return image


def colour(image: Image.Image, x: float, y: float) -> tuple[int, ...]:
    """Each channel rounded to dark (0), middling (1) or bright (2), at a place given in shares of the sides."""
    found = np.asarray(image)[int(y * image.height), int(x * image.width)]
    return tuple(int(np.rint(value / 127.5)) for value in found)


@pytest.mark.parametrize("encoding", ["jpeg", "webp"])
def test_the_whole_photo_fits_and_keeps_its_shape(encoding: Encoding) -> None:
    image = Image.new("RGB", (600, 300), "blue")
    image.paste("red", (0, 0, 300, 300))
    small = shrunk(file_of(image), 128, encoding)
    assert small.size == (128, 64)
    assert colour(small, 0.2, 0.5) == (2, 0, 0)
    assert colour(small, 0.8, 0.5) == (0, 0, 2)


def test_a_large_jpeg() -> None:
    image = Image.new("RGB", (3000, 2000), "lime")
    small = shrunk(file_of(image, "JPEG"))
    assert small.size == (128, 85)
    assert colour(small, 0.5, 0.5) == (0, 2, 0)


def test_a_small_photo_is_not_enlarged() -> None:
    assert shrunk(file_of(Image.new("RGB", (40, 30)))).size == (40, 30)


def test_a_photo_taken_sideways_is_turned_and_says_nothing_of_where() -> None:
    image = Image.new("RGB", (200, 100), "blue")
    image.paste("red", (0, 0, 100, 100))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    exif[0x010F] = "a camera"
    small = shrunk(file_of(image, "JPEG", exif=exif))
    assert small.size == (64, 128)
    assert colour(small, 0.5, 0.2) == (2, 0, 0)
    assert not dict(small.getexif())


def test_transparency_is_laid_on_white() -> None:
    for image in (Image.new("RGBA", (50, 50), (0, 0, 0, 0)), Image.new("LA", (50, 50), (0, 0))):
        assert colour(shrunk(file_of(image)), 0.5, 0.5) == (2, 2, 2)


def test_kinds_of_pixels() -> None:
    bright = np.full((50, 50), 65535, np.uint16)
    middling = np.full((50, 50), 32768, np.uint16)
    assert colour(shrunk(file_of(Image.fromarray(bright))), 0.5, 0.5) == (2, 2, 2)
    assert colour(shrunk(file_of(Image.fromarray(middling))), 0.5, 0.5) == (1, 1, 1)
    assert colour(shrunk(file_of(Image.new("CMYK", (50, 50), (0, 255, 255, 0)), "JPEG")), 0.5, 0.5) == (2, 0, 0)
    assert colour(shrunk(file_of(Image.new("RGB", (50, 50), "red").quantize(8), "GIF")), 0.5, 0.5) == (2, 0, 0)
    assert colour(shrunk(file_of(Image.new("1", (50, 50), 1))), 0.5, 0.5) == (2, 2, 2)


def test_what_is_no_picture_says_so() -> None:
    whole = file_of(Image.effect_noise((300, 300), 90), "JPEG")
    for data in (b"", b"not a picture", whole[: len(whole) // 2]):
        with pytest.raises(OSError):
            shrink(data, 128, "jpeg")
