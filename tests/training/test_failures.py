"""Failures on matrices whose answers were worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from training import failures

# Three photos, two captions each; the columns are captions. Captions 1 and 2 find photo 2, which is not theirs.
OWN = np.array([0, 0, 1, 1, 2, 2])
SCORES = np.array(
    [
        [0.9, 0.4, 0.1, 0.2, 0.3, 0.1],
        [0.1, 0.5, 0.7, 0.8, 0.6, 0.2],
        [0.2, 0.6, 0.9, 0.1, 0.7, 0.9],
    ]
)


def test_hubs_are_photos_that_are_first_for_captions_of_others() -> None:
    found = failures.hubs(SCORES, OWN)
    assert (found["wrong_firsts"], found["most_of_one_photo"], found["photos_never_wrongly_first"]) == (2, 2, 2)
    assert found["share_of_worst_hundredth"] == 1
    assert found["skewness"] == 0  # all three photos are among everyone's ten best


def test_a_hub_among_many_photos_shows_in_the_skewness() -> None:
    rng = np.random.default_rng(0)
    scores, own = rng.normal(size=(200, 200)), np.arange(200)
    even = failures.hubs(scores, own)["skewness"]
    scores[7] += 3
    assert failures.hubs(scores, own)["skewness"] > even + 5


def test_an_answer_is_as_good_when_a_caption_of_it_is_nearer_than_all_siblings() -> None:
    # Caption 1 is nearer to caption 4 (photo 2, returned) and to caption 2 (photo 1, by chance) than to its sibling 0;
    # caption 2 is nearest to its sibling 3.
    near = np.zeros((6, 6))
    near[1, [0, 2, 4]] = 0.3, 0.4, 0.5
    near[2, [3, 4]] = 0.9, 0.5
    found = failures.as_good(SCORES, OWN, lambda one, others: near[one, others])
    assert found == {"returned": 0.5, "by_chance": 0.5}


def test_kinds_have_the_recall_of_their_captions() -> None:
    texts = ["a red ball", "two balls", "a red car", "two red cars"]
    rows = failures.by_kind(texts, texts, np.array([1, 5, 2, 1]), np.array([1, 1, 2, 1]))
    told = {(row["kind"], row["answer"]): (row["captions"], row["dual_r1"], row["cross_r1"]) for row in rows}
    assert told["says a colour", "yes"] == (3, pytest.approx(66.67), pytest.approx(66.67))
    assert told["says a number", "yes"] == (2, 50, 100)
    assert ("words for persons", "1") not in told  # no such caption, no row
