"""The arithmetic from raw scores to probabilities and order."""

from __future__ import annotations

import itertools
import math
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.schemas import Calibration, CrossScoring, Scoring
from shared.scoring import Cut, expected_f1, probability, rank_cross, rank_dual

SCORING = Scoring(
    dual=Calibration(scale=10, bias=-3),
    text_to_image=CrossScoring(scale=0.5, bias=-1, similarity_weight=4),
    image_to_text=CrossScoring(scale=0.25, bias=-2, similarity_weight=9),
)
COSINES = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20)
FALLING = st.lists(st.floats(0, 1), max_size=8).map(lambda scores: sorted(scores, reverse=True))
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
@given(COSINES, LOGITS, st.sampled_from(["text", "image"]))
def test_cross_orders_the_reranked_and_leaves_the_rest_below(
    cosines: list[float], logits: list[float], query: Literal["text", "image"]
) -> None:
    falling = np.sort(np.array(cosines, np.float32))[::-1]
    seen = np.array(logits[: len(cosines)], np.float32)
    depth = len(seen)
    order, scores = rank_cross(falling, seen, SCORING, query)
    raw = seen + (4 if query == "text" else 9) * falling[:depth]
    assert order[:depth].tolist() == sorted(range(depth), key=lambda place: -raw[place])
    assert order[depth:].tolist() == list(range(depth, len(cosines)))
    assert (np.diff(scores) <= 0).all()
    assert ((scores >= 0) & (scores <= 1)).all()
    np.testing.assert_allclose(scores[:depth], probability(raw[order[:depth]], SCORING.cross(query)))


def f1_by_enumeration(scores: list[float]) -> list[float]:
    """Every way in which the results can be matches or not, weighted by its probability."""
    expected = [0.0] * len(scores)
    for matches in itertools.product([False, True], repeat=len(scores)):
        chance = math.prod(p if match else 1 - p for p, match in zip(scores, matches, strict=True))
        for length in range(1, len(scores) + 1):
            expected[length - 1] += chance * 2 * sum(matches[:length]) / (length + sum(matches))
    return expected


@settings(deadline=None)
@given(FALLING)
def test_expected_f1_is_the_mean_over_all_that_may_be(scores: list[float]) -> None:
    np.testing.assert_allclose(expected_f1(np.array(scores)), f1_by_enumeration(scores), atol=1e-12)


@pytest.mark.parametrize("matches", [0, 1, 400, 1000])
def test_a_thousand_results_of_which_so_many_are_certain(matches: int) -> None:
    scores = np.array([1.0] * matches + [0.0] * (1000 - matches))
    lengths = np.arange(1, 1001)
    f1 = 2 * np.minimum(lengths, matches) / (lengths + matches)
    np.testing.assert_allclose(expected_f1(scores), f1, atol=1e-9)
    assert Cut(cutoff="auto").kept(scores) == max(1, matches)


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ([], 0),
        ([0.9, 0.8, 0.02, 0.01], 2),
        ([0.9, 0.85, 0.8, 0.75, 0.7], 5),
        ([0.6, 0.01, 0.01], 1),
        ([0.05, 0.001, 0.001], 1),  # unlikely, and still the likeliest
        ([0.3] * 20, 20),  # each unlikely, but six of them are to be expected
    ],
)
def test_the_adaptive_cut(scores: list[float], kept: int) -> None:
    assert Cut(cutoff="auto").kept(np.array(scores)) == kept


def test_a_lowest_score_leaves_out_what_is_below_it() -> None:
    scores = np.array([0.9, 0.5, 0.5, 0.2, 0.0])
    assert [Cut(least).kept(scores) for least in (0.0, 0.2, 0.21, 0.5, 0.51, 1.0)] == [5, 4, 3, 3, 1, 0]
    assert Cut(1.0).kept(np.ones(3)) == 3


@settings(deadline=None)
@given(FALLING, st.floats(0, 1))
def test_both_cuts_together_are_the_stricter_of_the_two(scores: list[float], least: float) -> None:
    given_ = np.array(scores)
    assert Cut(least, "auto").kept(given_) == min(Cut(least).kept(given_), Cut(cutoff="auto").kept(given_))


@pytest.mark.parametrize("least", [-0.1, 1.1, math.nan, math.inf])
def test_a_lowest_score_is_a_probability(least: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1, not"):
        Cut(least)
