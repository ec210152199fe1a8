"""How a model fails on a split: by kind of caption, by hubs, and how often the wrong answer is as good.

What comes out holds file names and counts, no photo and no caption of the data set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from shared.engines.engine import Engine
from shared.models.hubness import EXTRA
from training.caption_kinds import answers, content_words, frequencies, kinds
from training.data.captioned import CaptionedImages
from training.evaluate import Scores, cross_scores, embed, measured_with, rerank
from training.metrics import IntArray, image_to_text_ranks, recall_at_k, text_to_image_ranks

Int64 = npt.NDArray[np.int64]


def find(
    engine: Engine, data: CaptionedImages, train: CaptionedImages, console: Console, *, depth: int = 50, worst: int = 20
) -> dict[str, Any]:
    """Everything about the failures on ``data``, JSON-able; ``train`` says which words are rare."""
    split = embed(engine, data, console)
    own = split.caption_image
    found = rerank(engine, split, depth, console)
    t2i, i2t = cross_scores(split, found, engine.manifest.scoring)
    texts = [text for image in data.images for text in image.captions]
    dual, cross = text_to_image_ranks(split.similarity, own), text_to_image_ranks(t2i, own)
    photo_ranks = image_to_text_ranks(i2t, own)
    last = np.argsort(-photo_ranks, kind="stable")[:worst]
    vectors = split.text_vectors[:, :-EXTRA] if engine.manifest.config["towers"].get("bank") else split.text_vectors
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    bags = [content_words(text) for text in texts]
    return {
        **measured_with(engine),
        "images": len(data),
        "captions": len(texts),
        "rerank_depth": depth,
        "ranks": {"dual": _spread(dual, depth), "cross": _spread(cross, depth)},
        "reranking": {
            "mends": int(np.count_nonzero((dual > 1) & (cross == 1))),
            "breaks": int(np.count_nonzero((dual == 1) & (cross > 1))),
        },
        "kinds": by_kind(texts, [text for image in train.images for text in image.captions], dual, cross),
        "hubs": {"dual": hubs(split.similarity, own), "cross": hubs(t2i, own)},
        "as_good": {
            "text tower": as_good(t2i, own, lambda one, others: vectors[others] @ vectors[one]),
            "shared words": as_good(
                t2i, own, lambda one, others: np.array([_overlap(bags[one], bags[other]) for other in others])
            ),
        },
        "worst": [{"photo": split.names[photo], "rank": int(photo_ranks[photo])} for photo in last],
    }


def by_kind(texts: list[str], training: list[str], dual: IntArray, cross: IntArray) -> list[dict[str, Any]]:
    """R@1 of the captions ``texts`` of each kind, from the ranks (n,) of their photos."""
    rows = []
    for question, rule in kinds(frequencies(training)).items():
        told = np.array([rule(text) for text in texts])
        for answer in answers(question):
            these = told == answer
            if these.any():
                recalls = {"dual_r1": recall_at_k(dual[these], 1), "cross_r1": recall_at_k(cross[these], 1)}
                rounded = {key: round(value, 2) for key, value in recalls.items()}
                rows.append({"kind": question, "answer": answer, "captions": int(these.sum()), **rounded})
    return rows


def hubs(scores: Scores, own: Int64) -> dict[str, Any]:
    """How unevenly the wrong first places fall on the photos; ``scores`` (photos, captions).

    ``skewness`` is that of the number of captions that have a photo among their ten best (Radovanović et al., JMLR
    2010): 0 where no photo is a hub.
    """
    first = scores.argmax(axis=0)
    wrong = np.bincount(first[first != own], minlength=len(scores))
    among_ten = np.bincount(np.argsort(-scores, axis=0)[:10].ravel(), minlength=len(scores)).astype(np.float64)
    spread = among_ten.std()
    hundredth = max(1, len(scores) // 100)
    return {
        "wrong_firsts": int(wrong.sum()),
        "most_of_one_photo": int(wrong.max()),
        "share_of_worst_hundredth": round(float(np.sort(wrong)[-hundredth:].sum() / max(1, wrong.sum())), 4),
        "photos_never_wrongly_first": int(np.count_nonzero(wrong == 0)),
        "skewness": round(float(((among_ten - among_ten.mean()) ** 3).mean() / spread**3), 3) if spread else 0.0,
    }


def as_good(scores: Scores, own: Int64, nearness: Callable[[int, Int64], npt.NDArray[Any]]) -> dict[str, float]:
    """The share of wrong first photos of which some caption is nearer to the query than all other captions of its own
    photo are, and the same share for photos picked by chance (the one half the split away).

    ``nearness(one, others)`` compares a caption with others (n,) -> (n,).
    """
    first, photos = scores.argmax(axis=0), len(scores)
    captions_of = [np.flatnonzero(own == photo) for photo in range(photos)]
    nearer = {"returned": 0, "by_chance": 0}
    queries = [q for q in np.flatnonzero(first != own).tolist() if len(captions_of[own[q]]) > 1]
    for query in queries:
        siblings = captions_of[own[query]]
        nearest = nearness(query, siblings[siblings != query]).max()
        for what, photo in (("returned", first[query]), ("by_chance", (own[query] + photos // 2) % photos)):
            nearer[what] += bool(nearness(query, captions_of[photo]).max() > nearest)
    return {what: round(count / max(1, len(queries)), 4) for what, count in nearer.items()}


def _spread(ranks: IntArray, depth: int) -> dict[str, float]:
    """Where the right photo is, in percent of all captions."""
    bounds = {"first": (1, 1), "2_to_5": (2, 5), "6_to_10": (6, 10), "11_to_depth": (11, depth)}
    parts = {name: float(np.mean((ranks >= low) & (ranks <= high)) * 100) for name, (low, high) in bounds.items()}
    return {name: round(part, 2) for name, part in {**parts, "beyond": float(np.mean(ranks > depth) * 100)}.items()}


def _overlap(one: set[str], other: set[str]) -> float:
    """Jaccard's index of two bags of words."""
    return len(one & other) / max(1, len(one | other))
