"""From raw scores to answers: one place for the arithmetic that the gateway, the command line and evaluation share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from shared.schemas import Calibration, CrossScoring, Cutoff, Scoring

Floats = npt.NDArray[np.floating[Any]]
Probabilities = npt.NDArray[np.float64]

# Gauss-Legendre quadrature with this many nodes is exact for 128 results, and off by less than 1e-9 for 1,000.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(128)


def probability(raw: Floats, calibration: Calibration) -> Probabilities:
    """``sigmoid(scale * raw + bias)``, written so that no input overflows."""
    x = calibration.scale * np.asarray(raw, np.float64) + calibration.bias
    return np.asarray(np.exp(-np.logaddexp(0, -x)))


def rank_dual(cosines: Floats, scoring: Scoring) -> tuple[npt.NDArray[np.int64], Probabilities]:
    """Order and probabilities of candidates (n,) by similarity alone."""
    order = np.argsort(-cosines, kind="stable")
    return order, probability(cosines[order], scoring.dual)


def fuse(cosines: Floats, logits: Floats, scoring: CrossScoring) -> Floats:
    """Raw cross scores of pairs, from arrays of one shape."""
    return logits + scoring.similarity_weight * cosines


def rank_cross(
    cosines: Floats, logits: Floats, scoring: Scoring, query: Literal["text", "image"]
) -> tuple[npt.NDArray[np.int64], Probabilities]:
    """Order and probabilities of candidates of which the first ``len(logits)`` were reranked.

    ``cosines`` (n,) are in the dual encoder's order. Those past the reranked ones follow in that order, none of them
    scored above the last reranked one: the reranker has not seen them.
    """
    depth = len(logits)
    cross = scoring.cross(query)
    raw = fuse(cosines[:depth], logits, cross)
    order = np.argsort(-raw, kind="stable")
    scores = probability(raw[order], cross)
    if depth == len(cosines):
        return order, scores
    rest = np.minimum(probability(cosines[depth:], scoring.dual), scores[-1] if depth else 1.0)
    return np.concatenate([order, np.arange(depth, len(cosines))]), np.concatenate([scores, rest])


@dataclass(frozen=True)
class Cut:
    """Where a ranked list ends: before the first result that is a match with a probability under ``min_score``, and,
    when ``cutoff`` is "auto", where the list has the highest expected F1, but after the first result: what is cut is a
    tail. Raises ValueError for a ``min_score`` that is no probability."""

    min_score: float = 0.0
    cutoff: Cutoff = "none"

    def __post_init__(self) -> None:
        if not 0 <= self.min_score <= 1:
            raise ValueError(f"a score is a probability, so min_score must be from 0 to 1, not {self.min_score}")

    def kept(self, scores: Floats) -> int:
        """How many of the results with these probabilities (n,), best first, are kept: none to n."""
        likely = int(np.count_nonzero(np.asarray(scores) >= self.min_score))
        return likely if self.cutoff == "none" or not likely else min(likely, 1 + int(np.argmax(expected_f1(scores))))


def expected_f1(scores: Floats) -> Probabilities:
    """What F1 to expect of the first m of n results, for m = 1 to n (n,), given each one's chance to be a match.

    With matches independent of each other, M of the first m and S of all n, F1 is 2M / (m + S) (Lewis, SIGIR 1995). The
    expectation is exact, and not the ratio of expectations, which is far off where few matches are to be expected:
    1 / c is the integral of t^(c - 1) over 0 to 1, and t^S has the expectation prod(1 - p + p t), so

        E[F1 at m] = 2 * integral of t^m * prod_j(1 - p_j + p_j t) * sum_{i <= m} p_i / (1 - p_i + p_i t).
    """
    p = np.asarray(scores, np.float64)
    t, weights = (_NODES[:, None] + 1) / 2, _WEIGHTS / 2
    survives = 1 - p * (1 - t)  # (nodes, n), each over 0
    claimed = np.cumsum(p / survives, axis=1)
    length = np.arange(1, len(p) + 1)
    density = np.exp(np.log(survives).sum(axis=1, keepdims=True) + length * np.log(t))
    return np.asarray(2 * (weights @ (density * claimed)))
