"""Recall of a model artifact on a split, by the engine that serves it: the figures that go with a published version."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from shared.engines import images
from shared.engines.engine import Engine
from shared.schemas import CrossScoring, Scoring
from shared.scoring import fuse, probability
from shared.tokens import TokenFeatures
from training import calibration
from training.data.captioned import CaptionedImages
from training.metrics import DirectionMetrics, image_to_text_ranks, text_to_image_ranks, write_qrels, write_trec_run

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Scores = npt.NDArray[np.floating[Any]]
_BELOW = -10_000.0  # under every reranked score
_SHOWN = 10  # results that a caller is shown: what calibration is fitted to
_WEIGHTS = (0.0, 10.0, 20.0, 30.0, 40.0, 60.0, 80.0, 120.0, 160.0, 240.0, 320.0, 480.0, 640.0, 960.0)


@dataclass(frozen=True)
class Embedded:
    """A split as the engine sees it: unit vectors and quantised tokens of photos and captions."""

    names: list[str]
    caption_image: Int64
    image_vectors: Float32
    text_vectors: Float32
    image_tokens: list[TokenFeatures]
    text_tokens: list[TokenFeatures]

    @property
    def similarity(self) -> Float32:
        """Cosines (photos, captions)."""
        return self.image_vectors @ self.text_vectors.T

    @property
    def caption_names(self) -> list[str]:
        counts: dict[int, int] = {}
        names = []
        for image in self.caption_image.tolist():
            names.append(f"{self.names[image]}#{counts.get(image, 0)}")
            counts[image] = counts.get(image, 0) + 1
        return names


@dataclass(frozen=True)
class Candidates:
    """The dual encoder's best ``depth`` for each query, with the reranker's logits.

    ``t2i`` (captions, depth) rows of photos, ``i2t`` (photos, depth) rows of captions; logits of the same shapes.
    """

    t2i: Int64
    t2i_logits: Float32
    i2t: Int64
    i2t_logits: Float32


def measured_with(engine: Engine) -> dict[str, Any]:
    """What a figure was measured with: the model, the seed of its training, and what computed it."""
    manifest = engine.manifest
    return {
        "artifact": manifest.ref,
        "fingerprint": manifest.fingerprint,
        "seed": manifest.training.get("dual", {}).get("seed"),
        "runtime": engine.runtime,
    }


def embed(engine: Engine, data: CaptionedImages, console: Console, batch: int = 64) -> Embedded:
    """Photos from their files, captions as they are."""
    texts = [text for image in data.images for text in image.captions]
    order = np.argsort([len(text) for text in texts], kind="stable")
    image_parts, image_tokens = [], []
    for start in track(range(0, len(data), batch), "photos", console=console):
        files = [image.path.read_bytes() for image in data.images[start : start + batch]]
        out = engine.embed_images(np.stack([images.pixels(file, engine.manifest.preprocessing) for file in files]))
        image_parts.append(out.embedding)
        image_tokens += out.tokens
    text_vectors = np.zeros((len(texts), engine.manifest.embedding_dim), np.float32)
    text_tokens: dict[int, TokenFeatures] = {}
    for start in track(range(0, len(texts), batch), "captions", console=console):
        rows = order[start : start + batch]
        out = engine.embed_texts([texts[row] for row in rows])
        text_vectors[rows] = out.embedding
        text_tokens.update(zip(rows.tolist(), out.tokens, strict=True))
    return Embedded(
        [image.name for image in data.images],
        np.repeat(np.arange(len(data)), [len(image.captions) for image in data.images]),
        np.concatenate(image_parts),
        text_vectors,
        image_tokens,
        [text_tokens[row] for row in range(len(texts))],
    )


def rerank(engine: Engine, split: Embedded, depth: int, console: Console, batch: int = 100) -> Candidates:
    """Score the dual encoder's best ``depth`` both ways, one query's candidates a call, as the gateway does."""
    similarity = split.similarity

    def logits(images: Int64, captions: Int64) -> Float32:
        parts = []
        for start in range(0, len(images), batch):
            pairs = slice(start, start + batch)
            parts.append(
                engine.rerank(
                    [split.text_tokens[c] for c in captions[pairs]], [split.image_tokens[i] for i in images[pairs]]
                )
            )
        return np.concatenate(parts)

    photos_n, captions_n = similarity.shape
    t2i = np.argsort(-similarity, axis=0, kind="stable")[: min(depth, photos_n)].T
    i2t = np.argsort(-similarity, axis=1, kind="stable")[:, : min(depth, captions_n)]
    t2i_logits = [
        logits(t2i[c], np.full(t2i.shape[1], c)) for c in track(range(captions_n), "reranking photos", console=console)
    ]
    i2t_logits = [
        logits(np.full(i2t.shape[1], i), i2t[i]) for i in track(range(photos_n), "reranking captions", console=console)
    ]
    return Candidates(t2i, np.stack(t2i_logits), i2t, np.stack(i2t_logits))


def cross_scores(split: Embedded, found: Candidates, scoring: Scoring) -> tuple[Scores, Scores]:
    """Raw cross scores (photos, captions) for text-to-image and image-to-text: what was reranked by what the reranker
    says and the cosine, the rest below it in the dual encoder's order."""
    similarity = split.similarity.astype(np.float64)
    t2i, i2t = similarity + _BELOW, similarity + _BELOW
    columns = np.arange(len(found.t2i))[:, None]
    t2i[found.t2i, columns] = fuse(similarity[found.t2i, columns], found.t2i_logits, scoring.text_to_image)
    rows = np.arange(len(found.i2t))[:, None]
    i2t[rows, found.i2t] = fuse(similarity[rows, found.i2t], found.i2t_logits, scoring.image_to_text)
    return t2i, i2t


def figures(t2i: Scores, i2t: Scores, caption_image: Int64) -> dict[str, Any]:
    """Recall@1/5/10 and median rank both ways."""

    def rounded(side: DirectionMetrics) -> dict[str, float]:
        return {key: round(value, 3) for key, value in vars(side).items()}

    return {
        "t2i": rounded(DirectionMetrics.from_ranks(text_to_image_ranks(t2i, caption_image))),
        "i2t": rounded(DirectionMetrics.from_ranks(image_to_text_ranks(i2t, caption_image))),
    }


def evaluate(
    engine: Engine,
    data: CaptionedImages,
    model_type: Literal["dual", "cross"],
    console: Console,
    *,
    depth: int = 50,
    trec: Path | None = None,
) -> dict[str, Any]:
    """The whole protocol on one split, as a JSON-able report. ``trec`` is a folder for run and qrels files."""
    split = embed(engine, data, console)
    scoring = engine.manifest.scoring
    t2i: Scores = split.similarity
    i2t = t2i
    if model_type == "cross":
        found = rerank(engine, split, depth, console)
        t2i, i2t = cross_scores(split, found, scoring)
    report = {
        **measured_with(engine),
        "model_type": model_type,
        "images": len(data),
        "captions": len(split.caption_image),
        "skipped": dict(data.skipped),
        "bytes": sum(entry.bytes for entry in engine.manifest.files.values()),
        "cores": os.cpu_count(),
        "photo_milliseconds": photo_milliseconds(engine, data),
        **({"rerank_depth": depth} if model_type == "cross" else {}),
        **figures(t2i, i2t, split.caption_image),
        **_calibration(t2i, split.caption_image, scoring, model_type),
    }
    if trec is not None:
        _write_trec(trec, model_type, split, t2i, i2t)
    return report


def fit_scoring(split: Embedded, found: Candidates | None) -> Scoring:
    """Choose the similarity's weight in each direction by the sum of R@1, R@5 and R@10, then fit the calibrations, all
    on the split given (dev)."""
    similarity, own = split.similarity, split.caption_image
    dual = calibration.fit(*_retrieved(similarity, own))
    if found is None:
        return Scoring(dual=dual)

    def scored(weight: float) -> tuple[Scores, Scores]:
        one = CrossScoring(similarity_weight=weight)
        return cross_scores(split, found, Scoring(text_to_image=one, image_to_text=one))

    tried = {weight: figures(*scored(weight), own) for weight in _WEIGHTS}
    chosen = {
        way: max(_WEIGHTS, key=lambda weight: sum(tried[weight][way][recall] for recall in ("r1", "r5", "r10")))
        for way in ("t2i", "i2t")
    }
    t2i, i2t = scored(chosen["t2i"])[0], scored(chosen["i2t"])[1]
    best = np.argsort(-i2t, axis=1)[:, :_SHOWN]
    rows = np.arange(len(i2t))[:, None]
    fits = {
        "t2i": calibration.fit(*_retrieved(t2i, own)),
        "i2t": calibration.fit(i2t[rows, best].ravel(), (own[best] == rows).ravel()),
    }
    fused = {way: CrossScoring(**dict(fit), similarity_weight=chosen[way]) for way, fit in fits.items()}
    return Scoring(dual=dual, text_to_image=fused["t2i"], image_to_text=fused["i2t"])


def photo_milliseconds(engine: Engine, data: CaptionedImages, count: int = 25) -> float:
    """Median time of the image tower for one decoded photo, over ``count`` photos at most; the first warms it up."""
    taken = []
    for image in data.images[: 1 + count]:
        pixels = images.pixels(image.path.read_bytes(), engine.manifest.preprocessing)[None]
        start = time.perf_counter()
        engine.embed_images(pixels)
        taken.append(time.perf_counter() - start)
    return round(float(np.median(taken[1:] or taken)) * 1000, 2)


def _retrieved(scores: Scores, caption_image: Int64, depth: int = _SHOWN) -> tuple[Scores, npt.NDArray[np.bool_]]:
    """Raw scores and truth of the ``depth`` photos that each caption gets to see: the pairs a caller is shown."""
    best = np.argsort(-scores, axis=0)[:depth]
    columns = np.arange(scores.shape[1])
    return scores[best, columns].ravel(), (best == caption_image[columns]).ravel()


def _calibration(scores: Scores, caption_image: Int64, scoring: Scoring, model_type: str) -> dict[str, Any]:
    """How far the probabilities can be trusted, text to image: bins, and the error also where it was not fitted to."""
    raw, match = _retrieved(scores, caption_image)
    predicted = probability(raw, scoring.text_to_image if model_type == "cross" else scoring.dual)
    half = np.tile(caption_image % 2 == 0, len(raw) // len(caption_image))
    held_out = calibration.held_out_error(raw, match, half)
    return {
        "expected_calibration_error": round(calibration.expected_calibration_error(predicted, match), 4),
        "held_out_calibration_error": None if held_out is None else round(held_out, 4),
        "reliability": [
            {key: round(value, 4) for key, value in vars(row).items()}
            for row in calibration.reliability(predicted, match)
        ],
    }


def _write_trec(folder: Path, model_type: str, split: Embedded, t2i: Scores, i2t: Scores) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    captions, own = split.caption_names, [split.names[i] for i in split.caption_image]
    write_trec_run(folder / f"{model_type}.t2i.run", t2i.T, captions, split.names)
    write_trec_run(folder / f"{model_type}.i2t.run", i2t, split.names, captions)
    write_qrels(folder / "t2i.qrels", zip(captions, own, strict=True))
    write_qrels(folder / "i2t.qrels", zip(own, captions, strict=True))
