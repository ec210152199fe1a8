"""Exact search over shards, held against numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.collections import Snapshot
from tests.support.small import vectors

# Few directions, so that many vectors are the same; small integers, so that their products are exact in any order.
GRID = st.lists(st.lists(st.integers(-2, 2), min_size=3, max_size=3), max_size=40)


def array(rows: list[list[int]]) -> npt.NDArray[np.float32]:
    return np.array(rows, np.float32).reshape(-1, 3)


def best(stored: npt.NDArray[np.float32], query: npt.NDArray[np.float32], k: int) -> list[tuple[float, int]]:
    """(score, row), best first, ties by row."""
    return sorted(((float(score), row) for row, score in enumerate(stored @ query)), key=lambda it: (-it[0], it[1]))[:k]


@settings(deadline=None)
@given(GRID, GRID, st.integers(1, 60), st.sampled_from([1, 2, 7, 1000]))
def test_search_finds_what_numpy_finds(rows: list[list[int]], asked: list[list[int]], k: int, shard_size: int) -> None:
    stored, queries = array(rows), array(asked)
    scores, found = Snapshot([str(row) for row in range(len(rows))], stored, shard_size).search(queries, k)
    assert scores.shape == found.shape == (len(queries), min(k, len(stored)))
    for query, its_scores, its_rows in zip(queries, scores.tolist(), found.tolist(), strict=True):
        assert list(zip(its_scores, its_rows, strict=True)) == best(stored, query, k)


@pytest.mark.parametrize("shard_size", [97, 1000, 5000])
@pytest.mark.parametrize("queries", [1, 50])
def test_many_equal_vectors_come_in_the_order_of_their_rows(shard_size: int, queries: int) -> None:
    # More equals than FAISS fetches at once, spread over everything; k on both sides of where it changes its method.
    stored = np.tile(np.eye(4, dtype=np.float32), (500, 1))
    snapshot = Snapshot([str(row) for row in range(2000)], stored, shard_size)
    for k in (1, 99, 100, 101, 400, 700):
        scores, rows = snapshot.search(np.tile(np.eye(4, dtype=np.float32)[1], (queries, 1)), k)
        ones = list(range(1, 2000, 4))
        rest = [row for row in range(2000) if row % 4 != 1]
        assert (rows == (ones + rest)[:k]).all()
        assert (scores == ([1] * 500 + [0] * 1500)[:k]).all()


def test_real_vectors_are_ranked_by_cosine() -> None:
    stored, queries = vectors(1, 3000, 64), vectors(2, 30, 64)
    scores, rows = Snapshot([str(row) for row in range(3000)], stored, 700).search(queries, 20)
    cosines = queries @ stored.T
    np.testing.assert_allclose(scores, -np.sort(-cosines, axis=1)[:, :20], atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(cosines, rows, axis=1), scores, atol=1e-6)


def test_shards_do_not_change_the_answer() -> None:
    stored, queries = vectors(1, 1000, 16), vectors(2, 5, 16)
    ids = [str(row) for row in range(1000)]
    whole = Snapshot(ids, stored).search(queries, 30)
    split = Snapshot(ids, stored, 170).search(queries, 30)
    assert (whole[1] == split[1]).all()
    np.testing.assert_allclose(whole[0], split[0], atol=1e-6)


def test_an_empty_snapshot_finds_nothing() -> None:
    snapshot = Snapshot([], np.zeros((0, 8), np.float32))
    scores, rows = snapshot.search(vectors(0, 3), 5)
    assert (len(snapshot), scores.shape, rows.shape) == (0, (3, 0), (3, 0))


def test_no_queries_have_no_answers() -> None:
    scores, rows = Snapshot(["a", "b"], vectors(0, 2)).search(np.zeros((0, 8), np.float32), 5)
    assert scores.shape == rows.shape == (0, 2)


@pytest.mark.parametrize("k", [0, -1, -(10**9)])
def test_k_below_one_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"k must be at least 1, not {k}"):
        Snapshot(["a"], vectors(0, 1)).search(vectors(1, 1), k)


def test_k_beyond_everything_gives_everything() -> None:
    scores, rows = Snapshot(["a", "b", "c"], vectors(0, 3)).search(vectors(1, 1), 10**9)
    assert sorted(rows[0].tolist()) == [0, 1, 2]
    assert (np.diff(scores[0]) <= 0).all()


@pytest.mark.parametrize("shape", [(8,), (1, 7), (1, 9), (1, 1, 8), (1, 0)])
def test_queries_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="this index has 8 dimensions"):
        Snapshot(["a"], vectors(0, 1)).search(np.ones(shape, np.float32), 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_queries_without_a_meaning_are_refused(value: float) -> None:
    query = vectors(1, 2)
    query[1, 3] = value
    with pytest.raises(ValueError, match="unit vectors are needed"):
        Snapshot(["a"], vectors(0, 1)).search(query, 1)
