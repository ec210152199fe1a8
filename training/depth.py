"""What reranking gives and what it takes, by how many of the dual encoder's best are reranked."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console

from shared.engines.engine import Engine
from training.data.captioned import CaptionedImages
from training.evaluate import Candidates, Embedded, cross_scores, embed, figures, measured_with, rerank


def sweep(engine: Engine, data: CaptionedImages, depths: Sequence[int], console: Console) -> dict[str, Any]:
    """Recalls and milliseconds at each of ``depths``, and at depth 0, which is the dual encoder alone.

    The best of the deepest list are the whole of a shorter one, so everything is reranked once. Every depth keeps the
    weights of the similarity that the artifact was published with.
    """
    split = embed(engine, data, console)
    found = rerank(engine, split, max(depths), console)
    scoring = engine.manifest.scoring
    rows: list[dict[str, Any]] = [
        {"depth": 0, "milliseconds": 0.0, **figures(split.similarity, split.similarity, split.caption_image)}
    ]
    for depth in sorted(depths):
        scores = cross_scores(split, _first(found, depth), scoring)
        taken = milliseconds(engine, split, found, depth)
        rows.append({"depth": depth, "milliseconds": taken, **figures(*scores, split.caption_image)})
    return {
        **measured_with(engine),
        "cores": os.cpu_count(),
        "images": len(data),
        "captions": len(split.caption_image),
        "similarity_weight": {
            "t2i": scoring.text_to_image.similarity_weight,
            "i2t": scoring.image_to_text.similarity_weight,
        },
        "depths": rows,
    }


def milliseconds(engine: Engine, split: Embedded, found: Candidates, depth: int, queries: int = 25) -> float:
    """Median time of one call that reranks the best ``depth`` photos of a caption, over ``queries`` captions."""
    taken = []
    for caption in np.linspace(0, len(found.t2i) - 1, queries, dtype=int).tolist():
        photos = [split.image_tokens[photo] for photo in found.t2i[caption, :depth]]
        start = time.perf_counter()
        engine.rerank([split.text_tokens[caption]] * len(photos), photos)
        taken.append(time.perf_counter() - start)
    return round(float(np.median(taken)) * 1000, 2)


def _first(found: Candidates, depth: int) -> Candidates:
    return Candidates(
        found.t2i[:, :depth], found.t2i_logits[:, :depth], found.i2t[:, :depth], found.i2t_logits[:, :depth]
    )
