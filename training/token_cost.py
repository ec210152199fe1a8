"""What it costs in recall that an index keeps the tokens that the reranker reads in int8."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rich.console import Console

from shared.engines.engine import Engine
from shared.tokens import TokenFeatures
from training.data.captioned import CaptionedImages
from training.evaluate import cross_scores, embed, figures, measured_with, rerank


def compare(engine: Engine, data: CaptionedImages, depth: int, console: Console) -> dict[str, Any]:
    """Recalls of ``exact`` tokens and of those ``stored``, in bytes each too; ``engine`` has to give out exact ones.

    Both keep the weights of the similarity that the artifact was published with.
    """
    exact = embed(engine, data, console)
    stored = replace(
        exact,
        image_tokens=[TokenFeatures.quantise(item.dequantise()) for item in exact.image_tokens],
        text_tokens=[TokenFeatures.quantise(item.dequantise()) for item in exact.text_tokens],
    )
    scoring = engine.manifest.scoring
    found: dict[str, Any] = {}
    for name, split in (("exact", exact), ("stored", stored)):
        scores = cross_scores(split, rerank(engine, split, depth, console), scoring)
        first = split.image_tokens[0]
        scales = first.scales.nbytes if name == "stored" else 0
        found[name] = {"bytes_a_photo": first.codes.nbytes + scales, **figures(*scores, split.caption_image)}
    facts = {"images": len(data), "captions": len(exact.caption_image), "rerank_depth": depth}
    return {**measured_with(engine), **facts, **found}
