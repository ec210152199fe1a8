"""What a search must answer, computed in this process from the photos and captions: no index, no services."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from shared.engines import Engine, open_engine
from shared.engines.images import pixels
from shared.scoring import probability
from shared.tokens import TokenFeatures
from tests.support.store import Prepared


@dataclass(frozen=True)
class _Thing:
    vector: np.ndarray
    tokens: TokenFeatures


class Oracle:
    """Scores, as probabilities, by image id or by caption. Equal captions count once."""

    def __init__(self, model: Path, prepared: Prepared) -> None:
        self._engine: Engine = open_engine(model, engine="onnx", threads=1)
        self._scoring = self._engine.manifest.scoring
        photos = sorted(path for path in prepared.photos.iterdir() if path.suffix != ".jsonl")
        self.names = {hashlib.sha256(path.read_bytes()).hexdigest()[:16]: path.name for path in photos}
        self._photos = {
            image_id: self._image((prepared.photos / name).read_bytes()) for image_id, name in self.names.items()
        }
        self._captions = {caption: self._text(caption) for caption in prepared.captions}

    def images(self, text: str) -> Mapping[str, tuple[float, float]]:
        """(dual, cross) scores of every photo."""
        query = self._text(text)
        return {image_id: self._scores(query, photo, query, photo) for image_id, photo in self._photos.items()}

    def captions(self, image: bytes) -> Mapping[str, tuple[float, float]]:
        """(dual, cross) scores of every distinct caption."""
        query = self._image(image)
        return {caption: self._scores(query, text, text, query) for caption, text in self._captions.items()}

    def text_vector(self, text: str) -> np.ndarray:
        return self._text(text).vector

    def token_count(self, text: str) -> int:
        return len(self._text(text).tokens)

    def image_vector(self, image_id: str) -> np.ndarray:
        return self._photos[image_id].vector

    def cosines(self, query: np.ndarray, target: Literal["images", "captions"]) -> dict[str, float]:
        """Of every photo, or of every distinct caption."""
        things = self._photos if target == "images" else self._captions
        return {name: float(query @ thing.vector) for name, thing in things.items()}

    def logit(self, text: str, image_id: str) -> float:
        return float(self._engine.rerank([self._text(text).tokens], [self._photos[image_id].tokens])[0])

    def losses(self, word: str, image_id: str) -> np.ndarray:
        """What the logit of a word loses, or 0, by hiding each 3 x 3 window of a photo's places (side, side)."""
        text, picture = self._text(word).tokens, self._photos[image_id].tokens
        places = picture.dequantise()
        side = round(len(places) ** 0.5)
        hidden = []
        for row in range(side):
            for column in range(side):
                grid = places.reshape(side, side, -1).copy()
                grid[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = places.mean(axis=0)
                hidden.append(TokenFeatures.quantise(grid.reshape(len(places), -1)))
        logits = self._engine.rerank([text] * (1 + len(hidden)), [picture, *hidden])
        return np.asarray(np.maximum(logits[0] - logits[1:], 0)).reshape(side, side)

    def _scores(self, query: _Thing, found: _Thing, text: _Thing, image: _Thing) -> tuple[float, float]:
        cosine = query.vector @ found.vector
        cross = self._scoring.cross("text" if query is text else "image")
        raw = self._engine.rerank([text.tokens], [image.tokens])[0] + cross.similarity_weight * cosine
        return float(probability(cosine, self._scoring.dual)), float(probability(raw, cross))

    def _text(self, text: str) -> _Thing:
        found = self._engine.embed_texts([text])
        return _Thing(found.embedding[0], found.tokens[0])

    def _image(self, data: bytes) -> _Thing:
        found = self._engine.embed_images(pixels(data, self._engine.manifest.preprocessing)[None])
        return _Thing(found.embedding[0], found.tokens[0])
