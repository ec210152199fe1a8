"""How hard a sealed shard must look, found out against exact search before it is published."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from shared.collections import exact, kinds
from shared.collections.exact import Float32, Index, Int64

K = 10
_FACTORS = (1, 2, 4, 8, 16, 32, 64, 128)
_SAME = 1e-6  # scores that differ by less are one score


@dataclass(frozen=True)
class Tuned:
    """``effort`` is nprobe or efSearch; ``refine`` times as many candidates as results are fetched. ``recall`` at 10
    was measured on queries that did not choose them."""

    effort: int
    refine: int
    recall: float


def tuned(index: Index, vectors: Float32, queries: Float32, target: float) -> Tuned:
    """The cheapest setting that reaches ``target`` on half of ``queries`` (n, D) by more than one standard error, or
    the best there is. Its recall is measured on the other half."""
    k = min(K, len(vectors))
    asked, held_out = queries[::2], queries[1::2]
    worst = exact.nearest_in_parts(vectors, asked, k)[0][:, -1:]
    chosen, cheapest, best = (kinds.most_effort(index), _FACTORS[-1]), float("inf"), 0.0
    for effort in _efforts(kinds.most_effort(index)):
        if kinds.bytes_read(index, effort) >= cheapest:
            break
        found = _good(vectors, asked, worst, _candidates(index, asked, k, effort, _FACTORS[-1]))
        for factor in _FACTORS:
            hits = np.minimum(found[:, : factor * k].sum(axis=1), k) / k
            # Candidates are read from all over a file, which takes longer than lists do.
            cost = kinds.bytes_read(index, effort) + 4 * 4 * vectors.shape[1] * factor * k
            reached = hits.mean() - hits.std() / np.sqrt(len(hits)) >= target
            if (reached and cost < cheapest) or (np.isinf(cheapest) and hits.mean() > best):
                chosen, best = (effort, factor), float(hits.mean())
                cheapest = cost if reached else cheapest
    effort, factor = chosen
    worst = exact.nearest_in_parts(vectors, held_out, k)[0][:, -1:]
    found = _good(vectors, held_out, worst, _candidates(index, held_out, k, effort, factor))
    return Tuned(effort, factor, float(np.minimum(found.sum(axis=1), k).mean() / k))


def _efforts(most: int) -> Iterator[int]:
    """1, 2, 3, 4, 6, 8, 12, ... and at last ``most``."""
    effort = 1
    while effort < most:
        yield effort
        if effort > 1 and 3 * effort // 2 < most:
            yield 3 * effort // 2
        effort *= 2
    yield most


def _candidates(index: Index, queries: Float32, k: int, effort: int, factor: int) -> Int64:
    fetched = k * factor
    if kinds.name_of_effort(index) == "efSearch":  # a graph finds no more than it looks at
        fetched = max(k, min(fetched, effort))
    return kinds.nearest(index, queries, fetched, effort, None)


def _good(vectors: Float32, queries: Float32, worst: Float32, rows: Int64) -> exact.Bool:
    """Which candidates are as near as the last of the exact answer: refined, they are in the answer."""
    return exact.products(vectors, queries, rows) >= worst - _SAME


def some(vectors: Float32, n: int) -> Float32:
    """``n`` of them, or all, at random."""
    rng = np.random.default_rng(1)
    return np.ascontiguousarray(vectors[rng.choice(len(vectors), min(n, len(vectors)), replace=False)])


def noisy(vectors: Float32, n: int) -> Float32:
    """``n`` queries where nobody's are known: vectors of the collection, turned away by about 25 degrees."""
    chosen = some(vectors, n)
    noise = np.random.default_rng(2).standard_normal(chosen.shape, np.float32)
    turned = chosen + 0.47 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    queries: Float32 = turned / np.linalg.norm(turned, axis=1, keepdims=True)
    return queries
