"""How well a model finds the gallery, whose photos and words are unlike those of the data it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console

from diptych.gallery import EXAMPLES, EXPECTED, photos, things
from shared.engines.engine import Engine
from shared.scoring import fuse
from training.data.captioned import CaptionedImage, CaptionedImages
from training.evaluate import Embedded, Scores, cross_scores, embed, figures, measured_with, rerank
from training.metrics import recall_at_k

TEMPLATE = "a photo of a {}"  # as Radford et al. (2021) ask for a class


@dataclass(frozen=True)
class Question:
    """A text, and the photos (rows) that are right answers to it."""

    text: str
    right: frozenset[int]


def measure(engine: Engine, console: Console, depth: int = 50) -> dict[str, Any]:
    """Recalls of the captions both ways and of names of things, and what the examples find; misses by name."""
    shown = photos()
    data = CaptionedImages(tuple(CaptionedImage(photo.path, photo.name, photo.captions) for photo in shown), {})
    split = embed(engine, data, console)
    row = {photo.name: number for number, photo in enumerate(shown)}
    found = rerank(engine, split, depth, console)
    reranked = cross_scores(split, found, engine.manifest.scoring)
    both = {"dual": (split.similarity, split.similarity), "cross": reranked}

    captions = [Question(text, frozenset([n])) for n, photo in enumerate(shown) for text in photo.captions]
    examples = [Question(text, frozenset([row[name]])) for text, name in zip(EXAMPLES, EXPECTED, strict=True)]
    names: dict[bool, list[Question]] = {True: [], False: []}
    for thing in things():
        right = frozenset(row[name] for name in thing.photos)
        names[thing.imagenet].append(Question(TEMPLATE.format(thing.name), right))
    return {
        **measured_with(engine),
        "photos": len(shown),
        "captions": len(captions),
        "rerank_depth": depth,
        **{model: figures(*scores, split.caption_image) for model, scores in both.items()},
        "misses": {model: _misses(scores[0], captions, split.names) for model, scores in both.items()},
        "examples": {
            model: {"queries": len(examples), "misses": _misses(scores, examples, split.names)}
            for model, scores in _ask(engine, split, examples).items()
        },
        "names": {
            kind: {model: _named(scores, some, split.names) for model, scores in _ask(engine, split, some).items()}
            for kind, some in (("imagenet", names[True]), ("other", names[False]))
        },
    }


def _ask(engine: Engine, split: Embedded, questions: Sequence[Question]) -> dict[str, Scores]:
    """Scores (photos, questions) of both models, with every photo reranked."""
    asked = engine.embed_texts([question.text for question in questions])
    cosines = split.image_vectors @ asked.embedding.T
    logits = [engine.rerank([tokens] * len(split.names), split.image_tokens) for tokens in asked.tokens]
    cross = engine.manifest.scoring.cross("text")
    return {"dual": cosines, "cross": fuse(cosines.astype(np.float64), np.stack(logits, axis=1), cross)}


def _ranks(scores: Scores, questions: Sequence[Question]) -> list[int]:
    """From 1, of the first right photo; another right one does not stand in its way, and ties count against it."""
    ranks = []
    for column, question in zip(scores.T, questions, strict=True):
        wrong = [photo for photo in range(len(column)) if photo not in question.right]
        ranks.append(1 + int(np.count_nonzero(column[wrong] >= column[sorted(question.right)].max())))
    return ranks


def _misses(scores: Scores, questions: Sequence[Question], photo_names: Sequence[str]) -> list[dict[str, Any]]:
    """The questions whose first answer is wrong, with the right photos' rank and the one that came first."""
    return [
        {
            "text": question.text,
            "photos": sorted(photo_names[photo] for photo in question.right),
            "rank": rank,
            "first": photo_names[int(column.argmax())],
        }
        for question, column, rank in zip(questions, scores.T, _ranks(scores, questions), strict=True)
        if rank > 1
    ]


def _named(scores: Scores, questions: Sequence[Question], photo_names: Sequence[str]) -> dict[str, Any]:
    ranks = np.array(_ranks(scores, questions))
    recalls = {f"r{k}": round(recall_at_k(ranks, k), 3) for k in (1, 5)}
    return {"names": len(questions), **recalls, "misses": _misses(scores, questions, photo_names)}
