"""A search, and what is stored of what it finds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from services.index.batches import Batches
from shared import tokens, wire
from shared.collections import VectorCollection
from shared.collections.exact import Float32
from shared.filters import Filter

_TRIES = 5
Read = tuple[dict[str, wire.Array], list[list[dict[str, Any]]]]


async def find(
    batches: Batches,
    collection: VectorCollection,
    queries: Float32,
    k: int,
    tags: Sequence[str],
    where: Filter | None,
    with_tokens: bool,
) -> tuple[Float32, dict[str, wire.Array], list[list[dict[str, Any]]]]:
    """Scores (B, k'), tensors and items of the best of ``queries`` (B, D). Raises ValueError."""
    for tries_left in reversed(range(_TRIES)):
        if tags or where is not None:
            scores, ids = await asyncio.to_thread(collection.search, queries, k, tags, where)
        else:
            scores, ids = await batches.search(collection, queries, k)
        try:
            return scores, *await asyncio.to_thread(_read, collection, ids, with_tokens)
        except KeyError:  # an engine that knows only what is there now has lost one since it was found
            if not tries_left:
                raise
    raise AssertionError


def _read(collection: VectorCollection, ids: Sequence[Sequence[str]], with_tokens: bool) -> Read:
    """What is stored of each query's items: tokens where they are wanted, and the rest."""
    tensors: dict[str, wire.Array] = {}
    if with_tokens:
        tensors = tokens.to_tensors([found for line in ids for found in collection.tokens(line)])
    items = [
        [{"id": item_id, **about} for item_id, about in zip(line, collection.metadata(line), strict=True)]
        for line in ids
    ]
    return tensors, items
