"""Photo folders that the tests draw themselves: coloured shapes on coloured grounds, with captions that say so."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

from PIL import Image, ImageDraw

COLOURS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (40, 70, 220), "yellow": (240, 220, 60)}
SHAPES = ("ball", "car", "tree")


def draw(shape: str, colour: str, ground: str, size: tuple[int, int] = (120, 90)) -> Image.Image:
    image = Image.new("RGB", size, COLOURS[ground])
    pen = ImageDraw.Draw(image)
    width, height = size
    box = (width // 4, height // 4, 3 * width // 4, 3 * height // 4)
    if shape == "ball":
        pen.ellipse(box, fill=COLOURS[colour])
    elif shape == "car":
        pen.rectangle(box, fill=COLOURS[colour])
    else:
        pen.polygon(
            [(width // 2, height // 8), (width // 8, height - 5), (width - 5, height - 5)], fill=COLOURS[colour]
        )
    return image


def captioned_folder(folder: Path) -> Path:
    """36 photos (every shape, colour and other ground) and a ``captions.jsonl``: 24 train, 6 dev, 6 test."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    names = [(s, c, g) for s in SHAPES for c in COLOURS for g in COLOURS if c != g]
    for number, (shape, colour, ground) in enumerate(names):
        name = f"{shape}-{colour}-{ground}.jpg"
        draw(shape, colour, ground).save(folder / name, quality=90)
        captions = [f"a {colour} {shape} on {ground}", f"the {shape} is {colour} and the ground {ground}"]
        split = {0: "dev", 1: "test"}.get(number % 6, "train")
        rows.append({"image": name, "captions": captions, "split": split})
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def png_bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims width x height pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body
