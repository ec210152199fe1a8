"""Scores that mean something: Platt scaling of raw scores to the chance of a match, and how well it holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from shared.schemas import Calibration
from shared.scoring import probability

Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Bin:
    """Pairs that were given about the same probability, and how many of them are matches."""

    mean_probability: float
    share_of_matches: float
    count: int


def fit(raw: Floats, match: Bools) -> Calibration:
    """Platt (1999): the ``scale`` and ``bias`` of a logistic regression of ``match`` (n,) on ``raw`` (n,)."""
    if match.all() or not match.any():
        raise ValueError("calibration needs both matches and mismatches among the retrieved pairs")
    spread = float(raw.std()) or 1.0
    model = LogisticRegression(C=1e6).fit((raw / spread)[:, None], match)
    return Calibration(scale=float(model.coef_[0, 0]) / spread, bias=float(model.intercept_[0]))


def reliability(predicted: Floats, match: Bools, bins: int = 15) -> list[Bin]:
    """The equal-width bins that hold any of the pairs ``predicted`` (n,), by rising probability."""
    place = np.minimum((predicted * bins).astype(int), bins - 1)
    return [
        Bin(float(predicted[place == b].mean()), float(match[place == b].mean()), int((place == b).sum()))
        for b in np.unique(place)
    ]


def expected_calibration_error(predicted: Floats, match: Bools, bins: int = 15) -> float:
    """Mean gap between predicted and observed frequency over equal-width bins, weighted by size (Guo et al., 2017)."""
    table = reliability(predicted, match, bins)
    return sum(abs(row.mean_probability - row.share_of_matches) * row.count for row in table) / len(predicted)


def held_out_error(raw: Floats, match: Bools, half: Bools) -> float | None:
    """The error on pairs that the scale was not fitted to: each half's by a fit on the other, the two averaged.

    ``half`` (n,) says which half a pair belongs to. None where a half lacks matches or mismatches to fit to.
    """
    errors = []
    for fitted in (half, ~half):
        if match[fitted].all() or not match[fitted].any() or fitted.all():
            return None
        predicted = probability(raw[~fitted], fit(raw[fitted], match[fitted]))
        errors.append(expected_calibration_error(predicted, match[~fitted]))
    return sum(errors) / 2
