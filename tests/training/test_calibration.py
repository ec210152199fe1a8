"""Raw scores to chances: what is fitted is what was drawn, and the error says how far off a prediction is."""

from __future__ import annotations

import numpy as np
import pytest

from shared.scoring import probability
from training import calibration


def _drawn(scale: float, bias: float, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    raw = rng.normal(0.25, 0.08, count)
    return raw, rng.random(count) < 1 / (1 + np.exp(-(scale * raw + bias)))


def test_the_fit_finds_the_curve_that_drew_the_data() -> None:
    raw, match = _drawn(40, -11)
    found = calibration.fit(raw, match)
    assert found.scale == pytest.approx(40, rel=0.05)
    assert found.bias == pytest.approx(-11, rel=0.05)
    assert calibration.expected_calibration_error(probability(raw, found), match) < 0.01


def test_the_unit_of_the_scores_does_not_matter() -> None:
    raw, match = _drawn(40, -11)
    one, other = calibration.fit(raw, match), calibration.fit(raw * 1000, match)
    np.testing.assert_allclose(probability(raw, one), probability(raw * 1000, other), atol=1e-3)


def test_equal_scores_are_given_the_share_of_matches() -> None:
    match = np.arange(100) < 30
    found = calibration.fit(np.full(100, 0.5), match)
    np.testing.assert_allclose(probability(np.array([0.5]), found), 0.3, atol=0.01)


@pytest.mark.parametrize("match", [np.ones(5, bool), np.zeros(5, bool)])
def test_one_sided_data_is_refused(match: np.ndarray) -> None:
    with pytest.raises(ValueError, match="both matches and mismatches"):
        calibration.fit(np.arange(5.0), match)


def test_the_calibration_error_is_the_weighted_gap() -> None:
    predicted = np.array([0.9, 0.9, 0.9, 0.9, 0.1, 0.1, 1.0, 0.0])
    match = np.array([True, True, True, False, False, True, True, False])
    # bins: 0.9 said, 0.75 seen (4 pairs); 0.1 said, 0.5 seen (2); 1 and 0 as they should be
    assert calibration.expected_calibration_error(predicted, match) == pytest.approx((4 * 0.15 + 2 * 0.4) / 8)
    assert calibration.expected_calibration_error(match.astype(float), match) == 0


def test_the_bins_hold_every_pair_once() -> None:
    raw, match = _drawn(40, -11)
    predicted = probability(raw, calibration.fit(raw, match))
    bins = calibration.reliability(predicted, match, bins=5)
    assert sum(row.count for row in bins) == len(raw)
    assert [round(row.mean_probability * 5 - 0.5) for row in bins] == [0, 1, 2, 3, 4]
    assert all(row.share_of_matches == pytest.approx(row.mean_probability, abs=0.03) for row in bins)


def test_an_error_that_is_held_out_sees_what_a_fit_on_everything_hides() -> None:
    raw, match = _drawn(40, -11)
    half = np.arange(len(raw)) % 2 == 0
    assert calibration.held_out_error(raw, match, half) == pytest.approx(0, abs=0.02)
    # One half's scores mean the opposite of the other's: a fit on either says nothing about the other.
    assert calibration.held_out_error(np.where(half, raw, -raw), match, half) > 0.2  # type: ignore[operator]


@pytest.mark.parametrize("half", [np.ones(4, bool), np.array([True, True, False, False])])
def test_no_error_is_told_where_a_half_cannot_be_fitted(half: np.ndarray) -> None:
    assert calibration.held_out_error(np.arange(4.0), np.array([True, True, True, False]), half) is None
