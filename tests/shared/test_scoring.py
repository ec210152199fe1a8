"""The arithmetic from raw scores to probabilities and order."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.schemas import Calibration, Scoring
from shared.scoring import probability, rank_cross, rank_dual

SCORING = Scoring(dual=Calibration(scale=10, bias=-3), cross=Calibration(scale=0.5, bias=-1), similarity_weight=4.0)
COSINES = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20)
LOGITS = st.lists(st.floats(-50, 50, width=32), max_size=20)


def test_probability_is_the_logistic_function() -> None:
    found = probability(np.array([0.1, 0.3, 0.7]), SCORING.dual)
    assert found.tolist() == pytest.approx([1 / (1 + math.exp(3 - 10 * x)) for x in (0.1, 0.3, 0.7)])


def test_no_score_is_too_large() -> None:
    found = probability(np.array([-1e30, -800, 0, 800, 1e30], np.float32), Calibration())
    assert found.tolist() == pytest.approx([0, 0, 0.5, 1, 1])


@settings(deadline=None)
@given(COSINES)
def test_dual_is_by_falling_cosine(cosines: list[float]) -> None:
    given_ = np.array(cosines, np.float32)
    order, scores = rank_dual(given_, SCORING)
    assert order.tolist() == sorted(range(len(cosines)), key=lambda place: -given_[place])
    assert (scores == probability(given_[order], SCORING.dual)).all()


@settings(deadline=None)
@given(COSINES, LOGITS)
def test_cross_orders_the_reranked_and_leaves_the_rest_below(cosines: list[float], logits: list[float]) -> None:
    falling = np.sort(np.array(cosines, np.float32))[::-1]
    seen = np.array(logits[: len(cosines)], np.float32)
    depth = len(seen)
    order, scores = rank_cross(falling, seen, SCORING)
    raw = seen + 4 * falling[:depth]
    assert order[:depth].tolist() == sorted(range(depth), key=lambda place: -raw[place])
    assert order[depth:].tolist() == list(range(depth, len(cosines)))
    assert (np.diff(scores) <= 0).all()
    assert ((scores >= 0) & (scores <= 1)).all()
    np.testing.assert_allclose(scores[:depth], probability(raw[order[:depth]], SCORING.cross))
