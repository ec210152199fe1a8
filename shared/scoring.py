"""From raw scores to answers: one place for the arithmetic that the gateway, the command line and evaluation share."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from shared.schemas import Calibration, Scoring

Floats = npt.NDArray[np.floating[Any]]
Probabilities = npt.NDArray[np.float64]


def probability(raw: Floats, calibration: Calibration) -> Probabilities:
    """``sigmoid(scale * raw + bias)``, written so that no input overflows."""
    x = calibration.scale * np.asarray(raw, np.float64) + calibration.bias
    return np.asarray(np.exp(-np.logaddexp(0, -x)))


def rank_dual(cosines: Floats, scoring: Scoring) -> tuple[npt.NDArray[np.int64], Probabilities]:
    """Order and probabilities of candidates (n,) by similarity alone."""
    order = np.argsort(-cosines, kind="stable")
    return order, probability(cosines[order], scoring.dual)


def rank_cross(cosines: Floats, logits: Floats, scoring: Scoring) -> tuple[npt.NDArray[np.int64], Probabilities]:
    """Order and probabilities of candidates of which the first ``len(logits)`` were reranked.

    ``cosines`` (n,) are in the dual encoder's order. Those past the reranked ones follow in that order, none of them
    scored above the last reranked one: the reranker has not seen them.
    """
    depth = len(logits)
    raw = logits + scoring.similarity_weight * cosines[:depth]
    order = np.argsort(-raw, kind="stable")
    scores = probability(raw[order], scoring.cross)
    if depth == len(cosines):
        return order, scores
    rest = np.minimum(probability(cosines[depth:], scoring.dual), scores[-1] if depth else 1.0)
    return np.concatenate([order, np.arange(depth, len(cosines))]), np.concatenate([scores, rest])
