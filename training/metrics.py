"""Retrieval metrics and TREC files, from one similarity matrix.

The protocol is the one of the image-caption literature (Hodosh et al., 2013; Karpathy & Fei-Fei, 2015): every caption
is a query for its one image (text to image), and every image is a query for any of its captions (image to text),
which on Flickr8k is 1,000 images x 5 captions.

Ties count against the model: an item that scores the same as the right one is ranked before it. So a scorer that
gives everything the same score gets the last rank, never the first.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]


def recall_at_k(ranks: IntArray, k: int) -> float:
    """Share of queries, in percent, whose first right answer is among the first `k`. `ranks` (n_queries,) from 1."""
    return float(np.mean(ranks <= k) * 100.0)


def median_rank(ranks: IntArray) -> float:
    """Median of the first right answers' ranks; 1 is perfect, and it may end in .5. `ranks` (n_queries,) from 1."""
    return float(np.median(ranks))


@dataclass(frozen=True)
class DirectionMetrics:
    """One direction of search. Recalls in percent."""

    r1: float
    r5: float
    r10: float
    median_rank: float

    @classmethod
    def from_ranks(cls, ranks: IntArray) -> "DirectionMetrics":
        return cls(recall_at_k(ranks, 1), recall_at_k(ranks, 5), recall_at_k(ranks, 10), median_rank(ranks))


@dataclass(frozen=True)
class RetrievalMetrics:
    """Both directions: `t2i` text to image, `i2t` image to text."""

    t2i: DirectionMetrics
    i2t: DirectionMetrics
    n_images: int
    n_captions: int

    @property
    def recall_sum(self) -> float:
        """Sum of the six recalls, 0 to 600: the literature's single figure for choosing between models."""
        return sum(side.r1 + side.r5 + side.r10 for side in (self.t2i, self.i2t))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON, and the sum of recalls beside them."""
        return {**asdict(self), "recall_sum": self.recall_sum}


def retrieval_metrics(similarity: FloatArray, caption_image: IntArray) -> RetrievalMetrics:
    """Recall@1/5/10 and median rank in both directions.

    `similarity` (n_images, n_captions), higher is closer; minus infinity means "never". `caption_image` (n_captions,)
    is the row of each caption's image. Raises ValueError for NaN, for shapes or indices that do not fit, and for an
    image without a caption.
    """
    _check(similarity, caption_image)
    n_images, n_captions = similarity.shape
    return RetrievalMetrics(
        t2i=DirectionMetrics.from_ranks(text_to_image_ranks(similarity, caption_image)),
        i2t=DirectionMetrics.from_ranks(image_to_text_ranks(similarity, caption_image)),
        n_images=n_images,
        n_captions=n_captions,
    )


def text_to_image_ranks(similarity: FloatArray, caption_image: IntArray) -> IntArray:
    """Rank of each caption's own image among all images, from 1. (n_captions,)"""
    own = similarity[caption_image, np.arange(len(caption_image))]  # (n_captions,)
    ranks: IntArray = np.count_nonzero(similarity >= own, axis=0)
    return ranks


def image_to_text_ranks(similarity: FloatArray, caption_image: IntArray) -> IntArray:
    """Rank of the best of each image's own captions among all captions, from 1. (n_images,)

    The other captions of the same image do not stand in its way.
    """
    is_own = caption_image[None, :] == np.arange(len(similarity))[:, None]  # (n_images, n_captions)
    best = np.max(similarity, axis=1, where=is_own, initial=-np.inf)  # (n_images,)
    ranks: IntArray = 1 + np.count_nonzero((similarity >= best[:, None]) & ~is_own, axis=1)
    return ranks


def write_trec(
    directory: Path,
    similarity: FloatArray,
    caption_image: IntArray,
    image_ids: Sequence[str],
    caption_ids: Sequence[str],
    *,
    depth: int = 1000,
) -> None:
    """Both directions as `t2i.run`, `t2i.qrels`, `i2t.run` and `i2t.qrels`, for trec_eval and its kin.

    Shapes as in `retrieval_metrics`; `image_ids` (n_images,) and `caption_ids` (n_captions,).
    """
    _check(similarity, caption_image)
    pairs = [(caption_ids[caption], image_ids[image]) for caption, image in enumerate(caption_image)]
    directory.mkdir(parents=True, exist_ok=True)
    write_trec_run(directory / "t2i.run", similarity.T, caption_ids, image_ids, depth=depth)
    write_qrels(directory / "t2i.qrels", pairs)
    write_trec_run(directory / "i2t.run", similarity, image_ids, caption_ids, depth=depth)
    write_qrels(directory / "i2t.qrels", ((image, caption) for caption, image in pairs))


def write_trec_run(
    path: Path,
    scores: FloatArray,
    query_ids: Sequence[str],
    item_ids: Sequence[str],
    *,
    depth: int = 1000,
    tag: str = "diptych",
) -> None:
    """Write the best `depth` items of each query as lines `query Q0 item rank score tag`, best first.

    `scores` (n_queries, n_items). Scores are written so that they read back exactly; those of minus infinity are left
    out. White space and `%` in ids are percent-encoded, since the format separates its columns by spaces.
    Raises ValueError for NaN, a depth below 1, ids that do not fit the scores, or ids that repeat.
    """
    if scores.shape != (len(query_ids), len(item_ids)):
        raise ValueError(f"scores {scores.shape} do not fit {len(query_ids)} queries and {len(item_ids)} items")
    if depth < 1:
        raise ValueError(f"depth must be at least 1, not {depth}")
    if np.isnan(scores).any():
        raise ValueError(_NAN)
    queries, items = _trec_ids(query_ids), _trec_ids(item_ids)
    with path.open("w", encoding="utf-8") as file:
        for query, row in zip(queries, scores, strict=True):
            best = np.argsort(-row, kind="stable")[:depth]
            file.writelines(
                f"{query} Q0 {items[item]} {rank} {score!r} {tag}\n"
                for rank, (item, score) in enumerate(zip(best, row[best].tolist(), strict=True), start=1)
                if score != -np.inf
            )


def write_qrels(path: Path, relevant: Iterable[tuple[str, str]]) -> None:
    """Write the right (query id, item id) pairs as lines `query 0 item 1`; ids encoded as in `write_trec_run`."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{_trec_id(query)} 0 {_trec_id(item)} 1\n" for query, item in relevant)


_NAN = "similarity holds NaN: the model diverged or an embedding was not finite"


def _check(similarity: FloatArray, caption_image: IntArray) -> None:
    if similarity.ndim != 2 or caption_image.shape != similarity.shape[1:]:
        raise ValueError(
            f"similarity must be (n_images, n_captions) and caption_image (n_captions,), "
            f"not {similarity.shape} and {caption_image.shape}"
        )
    n_images, n_captions = similarity.shape
    if n_images == 0 or n_captions == 0:
        raise ValueError(f"nothing to measure: {n_images} images and {n_captions} captions")
    if caption_image.min() < 0 or caption_image.max() >= n_images:
        raise ValueError(f"caption_image points outside the {n_images} images")
    captions_per_image = np.bincount(caption_image, minlength=n_images)
    if not captions_per_image.all():
        raise ValueError(f"image {int(captions_per_image.argmin())} has no caption, so its rank is undefined")
    if np.isnan(similarity).any():
        raise ValueError(_NAN)


def _trec_id(value: str) -> str:
    return re.sub(r"[\s%]", lambda match: quote(match[0]), value)


def _trec_ids(values: Sequence[str]) -> list[str]:
    if len(set(values)) != len(values):
        raise ValueError("ids repeat: a TREC run needs one id for each query and each item")
    return [_trec_id(value) for value in values]
