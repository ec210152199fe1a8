"""What is asked: requests by number, each the same on every machine, so that a new number is a new question."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from shared import tokens, wire
from shared.schemas import ModelType
from shared.tokens import TokenFeatures

_BOUNDARY = "diptych-benchmark"
_MULTIPART = f"multipart/form-data; boundary={_BOUNDARY}"

_WHO = (
    "man",
    "woman",
    "boy",
    "girl",
    "dog",
    "puppy",
    "child",
    "cyclist",
    "skier",
    "surfer",
    "climber",
    "runner",
    "dancer",
    "horse",
    "couple",
    "crowd",
)
_HOW = (
    "young",
    "old",
    "small",
    "brown",
    "black",
    "white",
    "wet",
    "muddy",
    "smiling",
    "tired",
    "blond",
    "shaggy",
    "bearded",
    "barefoot",
    "running",
    "tall",
)
_WEARS = (
    "a red shirt",
    "a blue jacket",
    "a striped hat",
    "sunglasses",
    "a green collar",
    "a helmet",
    "a yellow raincoat",
    "jeans",
)
_DOES = (
    "jumps over",
    "runs across",
    "stands beside",
    "looks at",
    "climbs",
    "walks along",
    "sits near",
    "plays with",
    "chases",
    "holds",
)
_WHAT = (
    "ball",
    "fence",
    "log",
    "bicycle",
    "stick",
    "wave",
    "bench",
    "rope",
    "rock",
    "puddle",
    "sandcastle",
    "frisbee",
    "kite",
    "wall",
    "boat",
    "swing",
)
_WHERE = (
    "on the beach",
    "in the snow",
    "in a grassy field",
    "on a busy street",
    "by the lake",
    "in a park",
    "at night",
    "in the forest",
    "under a bridge",
    "in front of a red building",
    "on a mountain trail",
    "next to a fountain",
    "while others watch",
)


@dataclass(frozen=True)
class Request:
    path: str
    body: bytes
    media_type: str


class Questions(Protocol):
    """The request of a number. It crosses into another process, so it is a frozen dataclass."""

    def __call__(self, number: int) -> Request: ...


def caption(number: int) -> str:
    """About as long as people's captions of photos, 8 to 20 words; one of some 10^10."""
    rng = random.Random(number)  # noqa: S311
    words = ["a", rng.choice(_HOW), rng.choice(_HOW), rng.choice(_WHO)]
    if rng.random() < 0.6:
        words += ["wearing", rng.choice(_WEARS)]
    words += [rng.choice(_DOES), "a", rng.choice(_HOW), rng.choice(_WHAT), rng.choice(_WHERE)]
    if rng.random() < 0.3:
        words += ["and a", rng.choice(_WHO), rng.choice(_WHERE)]
    return " ".join(words)


@dataclass(frozen=True)
class TextToImage:
    """``different``: how many texts there are; None: another one each time, so that no cache knows it."""

    model_type: ModelType
    k: int = 10
    different: int | None = None

    def __call__(self, number: int) -> Request:
        text = caption(number if self.different is None else number % self.different)
        body = _form(text=text, model_type=self.model_type, k=str(self.k)) + _end()
        return Request("/text-to-image", body, _MULTIPART)


@dataclass(frozen=True)
class ImageToText:
    """``fresh`` photos have bytes that never were before; otherwise each of the ``photos`` comes again and again."""

    photos: Sequence[bytes]
    model_type: ModelType
    k: int = 10
    fresh: bool = True

    def __call__(self, number: int) -> Request:
        photo = self.photos[number % len(self.photos)] + (number.to_bytes(8, "big") if self.fresh else b"")
        head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="photo.jpg"\r\n'
        image = head.encode() + b"Content-Type: image/jpeg\r\n\r\n" + photo + b"\r\n"
        return Request("/image-to-text", image + _form(model_type=self.model_type, k=str(self.k)) + _end(), _MULTIPART)


@dataclass(frozen=True)
class EmbedText:
    """To our encoder; with ``model`` to a server that speaks OpenAI's embeddings."""

    texts: int = 1
    model: str | None = None

    def __call__(self, number: int) -> Request:
        texts = [caption(number * self.texts + n) for n in range(self.texts)]
        if self.model is None:
            return Request("/embed/text", json.dumps({"texts": texts}).encode(), "application/json")
        asked = {"input": texts, "model": self.model, "encoding_format": "base64"}
        return Request("/embeddings", json.dumps(asked).encode(), "application/json")


@dataclass(frozen=True)
class EmbedImage:
    photos: Sequence[bytes]

    def __call__(self, number: int) -> Request:
        return Request("/embed/image", self.photos[number % len(self.photos)], "image/jpeg")


@dataclass(frozen=True)
class Search:
    """``batch`` random queries of unit length in one request."""

    dim: int
    batch: int
    k: int
    collection: Literal["images", "captions"] = "images"
    with_tokens: bool = False

    def __call__(self, number: int) -> Request:
        queries = unit_vectors(number, self.batch, self.dim)
        path = f"/search?collection={self.collection}&k={self.k}" + ("&tokens=true" if self.with_tokens else "")
        return Request(path, wire.pack({"queries": queries}), wire.MEDIA_TYPE)


@dataclass(frozen=True)
class Rerank:
    """One text against photos."""

    text: TokenFeatures
    candidates: Sequence[TokenFeatures]

    def __call__(self, number: int) -> Request:
        message = wire.pack({**tokens.to_tensors([self.text], "query_"), **tokens.to_tensors(self.candidates)})
        return Request("/rerank?query=text", message, wire.MEDIA_TYPE)


@dataclass(frozen=True)
class InTurn:
    """Each of several kinds after the other."""

    kinds: Sequence[Questions]

    def __call__(self, number: int) -> Request:
        return self.kinds[number % len(self.kinds)](number // len(self.kinds))


def unit_vectors(seed: int, n: int, dim: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Random, (n, dim)."""
    found = np.random.default_rng(seed).standard_normal((n, dim), np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


def _form(**fields: str) -> bytes:
    parts = [
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    return "".join(parts).encode()


def _end() -> bytes:
    return f"--{_BOUNDARY}--\r\n".encode()
