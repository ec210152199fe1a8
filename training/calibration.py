"""Scores that mean something: Platt scaling of raw scores to the chance of a match, and how well it holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from shared.schemas import Calibration

Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]


def fit(raw: Floats, match: Bools) -> Calibration:
    """Platt (1999): the ``scale`` and ``bias`` of a logistic regression of ``match`` (n,) on ``raw`` (n,)."""
    if match.all() or not match.any():
        raise ValueError("calibration needs both matches and mismatches among the retrieved pairs")
    spread = float(raw.std()) or 1.0
    model = LogisticRegression(C=1e6).fit((raw / spread)[:, None], match)
    return Calibration(scale=float(model.coef_[0, 0]) / spread, bias=float(model.intercept_[0]))


def expected_calibration_error(predicted: Floats, match: Bools, bins: int = 15) -> float:
    """Mean gap between predicted and observed frequency over equal-width bins, weighted by size (Guo et al., 2017)."""
    place = np.minimum((predicted * bins).astype(int), bins - 1)
    gaps = [abs(predicted[place == b].mean() - match[place == b].mean()) * (place == b).sum() for b in np.unique(place)]
    return float(sum(gaps) / len(predicted))
