"""What people upload, and what they should not: every kind of file becomes upright RGB or a sentence."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from shared.artifacts import ImagePreprocessing
from shared.engines.images import ImageError, decode, pixels
from tests.support.photos import png_bomb

RED, BLUE = (200, 30, 30), (30, 30, 200)
PREPROCESSING = ImagePreprocessing(size=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def _file(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _halves(size: tuple[int, int] = (40, 20)) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image


def _near(image: Image.Image, place: tuple[int, int], colour: tuple[int, int, int], tolerance: int = 12) -> bool:
    found = image.getpixel(place)
    assert isinstance(found, tuple)
    return max(abs(a - b) for a, b in zip(found, colour, strict=True)) <= tolerance


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 95, "subsampling": 0}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        pytest.param("AVIF", {"quality": 95}, marks=pytest.mark.skipif(not features.check("avif"), reason="no AVIF")),
    ],
)
def test_each_photo_format_is_read(kind: str, options: dict[str, object]) -> None:
    image = decode(_file(_halves(), kind, **options))
    assert (image.mode, image.size) == ("RGB", (40, 20))
    assert _near(image, (5, 10), RED)
    assert _near(image, (35, 10), BLUE)


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_an_animation_is_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in (RED, BLUE, BLUE)]
    data = _file(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
    assert _near(decode(data), (10, 10), RED)


@pytest.mark.parametrize(
    ("orientation", "size", "red", "blue"),
    [
        (1, (40, 20), (5, 10), (35, 10)),
        (2, (40, 20), (35, 10), (5, 10)),
        (3, (40, 20), (35, 10), (5, 10)),
        (4, (40, 20), (5, 10), (35, 10)),
        (5, (20, 40), (10, 5), (10, 35)),
        (6, (20, 40), (10, 5), (10, 35)),
        (7, (20, 40), (10, 35), (10, 5)),
        (8, (20, 40), (10, 35), (10, 5)),
    ],
)
def test_a_photo_is_turned_as_its_exif_says(
    orientation: int, size: tuple[int, int], red: tuple[int, int], blue: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode(_file(_halves(), "JPEG", exif=exif, quality=95, subsampling=0))
    assert image.size == size
    assert _near(image, red, RED)
    assert _near(image, blue, BLUE)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_cost_the_photo() -> None:
    data = _file(_halves(), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xffnonsense", quality=95)
    assert decode(data).size == (40, 20)


def _cmyk() -> bytes:
    return _file(_halves().convert("CMYK"), "JPEG", quality=95, subsampling=0)


def _palette() -> bytes:
    return _file(_halves().quantize(4), "PNG")


def _palette_transparent() -> bytes:
    return _file(_halves().quantize(4), "PNG", transparency=0)


def _grey_alpha() -> bytes:
    return _file(Image.new("LA", (40, 20), (10, 0)), "PNG")


def _rgba() -> bytes:
    image = _halves().convert("RGBA")
    image.putpixel((5, 10), (0, 0, 0, 0))
    image.putpixel((35, 10), (0, 0, 0, 128))
    return _file(image, "PNG")


def _sixteen_bits() -> bytes:
    values = np.full((20, 40), 65535, np.uint16)
    values[:, :20] = 128 * 257
    return _file(Image.fromarray(values), "PNG")


def _sixteen_bits_tiff() -> bytes:
    values = np.full((20, 40), 65535, np.uint16)
    values[:, :20] = 128 * 257
    return _file(Image.fromarray(values), "TIFF")


def _floats() -> bytes:
    values = np.ones((20, 40), np.float32)
    values[:, :20] = 128 / 255
    values[0, 0], values[0, 1] = np.nan, -5
    return _file(Image.fromarray(values), "TIFF")


def _one_bit() -> bytes:
    image = Image.new("1", (40, 20), 1)
    image.paste(0, (0, 0, 20, 20))
    return _file(image, "PNG")


GREY, WHITE, BLACK = (128, 128, 128), (255, 255, 255), (0, 0, 0)


@pytest.mark.parametrize(
    ("make", "left", "right"),
    [
        (_cmyk, RED, BLUE),
        (_palette, RED, BLUE),
        (_grey_alpha, WHITE, WHITE),
        (_rgba, WHITE, (127, 127, 127)),
        (_sixteen_bits, GREY, WHITE),
        (_sixteen_bits_tiff, GREY, WHITE),
        (_floats, GREY, WHITE),
        (_one_bit, BLACK, WHITE),
    ],
)
def test_each_kind_of_pixel_becomes_rgb(
    make: Callable[[], bytes], left: tuple[int, int, int], right: tuple[int, int, int]
) -> None:
    image = decode(make())
    assert image.mode == "RGB"
    assert _near(image, (5, 10), left)
    assert _near(image, (35, 10), right)


def test_the_transparent_colour_of_a_palette_is_white() -> None:
    image = decode(_palette_transparent())
    sides = [_near(image, place, WHITE) for place in ((5, 10), (35, 10))]
    assert sorted(sides) == [False, True]


@pytest.mark.parametrize("side", [10_001, 14_000, 60_000])
def test_a_decompression_bomb_is_refused_by_its_header(side: int) -> None:
    data = png_bomb(side, side)
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="over the limit of 100,000,000 pixels; send a smaller copy") as raised:
            decode(data)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    assert raised.value.slug == "image-too-large"


def test_the_limit_is_the_callers() -> None:
    data = _file(_halves(), "PNG")
    assert decode(data, max_pixels=800).size == (40, 20)
    with pytest.raises(ImageError, match=r"40 x 20, over the limit of 799 pixels") as raised:
        decode(data, max_pixels=799)
    assert raised.value.slug == "image-too-large"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"just some words, no picture at all",
        bytes(range(256)) * 10,
        b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>',
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"\xff\xd8\xff",
        png_bomb(10, 10),
        _file(_halves((400, 300)), "JPEG")[:1000],
        _file(_halves((400, 300)), "PNG")[:-200],
        _file(_halves((400, 300)), "WEBP")[:80],
        _file(_halves((400, 300)), "GIF")[:200],
    ],
    ids=["empty", "text", "garbage", "svg", "eps", "magic", "short data", "jpeg", "png", "webp", "gif"],
)
def test_what_is_not_a_whole_photo_is_refused_in_a_sentence(data: bytes) -> None:
    with pytest.raises(ImageError) as raised:
        decode(data)
    assert raised.value.slug == "invalid-image"
    assert str(raised.value).startswith(("the image", f"the {len(data)} bytes"))


@pytest.mark.parametrize("size", [(40, 20), (8, 500), (64, 64), (900, 700)])
def test_pixels_are_squashed_to_the_models_square(size: tuple[int, int]) -> None:
    found = pixels(_file(_halves(size), "PNG"), PREPROCESSING)
    assert found.shape == (64, 64, 3)
    assert found.dtype == np.uint8
    assert np.abs(found[32, 2].astype(int) - RED).max() <= 12
    assert np.abs(found[32, 61].astype(int) - BLUE).max() <= 12


def test_the_shortcut_for_large_jpegs_gives_nearly_the_same_pixels() -> None:
    photo = Image.fromarray(skimage.data.astronaut()).resize((1600, 1200))  # type: ignore[no-untyped-call]
    data = _file(photo, "JPEG", quality=92)
    assert decode(data, at_least=128).size == (200, 150)
    slow = np.asarray(decode(data).resize((64, 64), Image.Resampling.BICUBIC), np.int16)
    assert np.abs(pixels(data, PREPROCESSING) - slow).mean() < 2


MAGICS = (
    b"",
    b"\xff\xd8\xff\xe0",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a",
    b"BM",
    b"II*\x00",
    b"MM\x00*",
    b"RIFF\x20\0\0\0WEBPVP8 ",
)
WHOLE = [_file(_halves(), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(MAGICS), st.binary(max_size=300))
def test_random_bytes_only_ever_raise_an_image_error(magic: bytes, rest: bytes) -> None:
    try:
        image = decode(magic + rest, max_pixels=100_000)
    except ImageError:
        return
    assert image.mode == "RGB"


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(WHOLE), st.data())
def test_a_damaged_photo_is_decoded_or_refused(whole: bytes, data: st.DataObject) -> None:
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = decode(bytes(damaged), max_pixels=100_000)
    except ImageError:
        return
    assert image.mode == "RGB"
