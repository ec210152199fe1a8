import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from training.metrics import (
    DirectionMetrics,
    RetrievalMetrics,
    image_to_text_ranks,
    median_rank,
    recall_at_k,
    retrieval_metrics,
    text_to_image_ranks,
    write_qrels,
    write_trec,
    write_trec_run,
)

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]


def random_case(seed: int, n_images: int = 40, n_captions: int = 150) -> tuple[Floats, Ints]:
    """Scores with a signal, one image with a single caption and others with several."""
    rng = np.random.default_rng(seed)
    caption_image = np.concatenate([np.arange(n_images), rng.integers(1, n_images, n_captions - n_images)])
    rng.shuffle(caption_image)
    similarity = rng.normal(size=(n_images, n_captions)).astype(np.float32)
    similarity[caption_image, np.arange(n_captions)] += 1.5
    return similarity, caption_image


def by_trec_eval(directory: Path, way: str) -> dict[str, float]:
    """Success@1/5/10 in percent and the mean reciprocal rank, as pytrec_eval reads our files."""
    with (directory / f"{way}.run").open() as run_file, (directory / f"{way}.qrels").open() as qrels_file:
        run, qrels = pytrec_eval.parse_run(run_file), pytrec_eval.parse_qrel(qrels_file)
    results = pytrec_eval.RelevanceEvaluator(qrels, {"success", "recip_rank", "recall.1,5,10"}).evaluate(run)
    assert len(results) == len(qrels)
    return {
        measure: float(np.mean([result[measure] for result in results.values()]))
        for measure in ("success_1", "success_5", "success_10", "recip_rank", "recall_1", "recall_5", "recall_10")
    }


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_trec_eval_both_ways(seed: int, tmp_path: Path) -> None:
    similarity, caption_image = random_case(seed)
    image_ids = [f"photo {index}.jpg" for index in range(len(similarity))]
    caption_ids = [f"photo {image}.jpg#{index}" for index, image in enumerate(caption_image)]
    write_trec(tmp_path, similarity, caption_image, image_ids, caption_ids)
    metrics = retrieval_metrics(similarity, caption_image)
    for way, ours, ranks in (
        ("t2i", metrics.t2i, text_to_image_ranks(similarity, caption_image)),
        ("i2t", metrics.i2t, image_to_text_ranks(similarity, caption_image)),
    ):
        theirs = by_trec_eval(tmp_path, way)
        assert ours.r1 == pytest.approx(100 * theirs["success_1"])
        assert ours.r5 == pytest.approx(100 * theirs["success_5"])
        assert ours.r10 == pytest.approx(100 * theirs["success_10"])
        assert np.mean(1 / ranks) == pytest.approx(theirs["recip_rank"])  # so the ranks agree, not only the cut-offs
    # With one right image for each caption, recall is success; the other way round it is not.
    theirs = by_trec_eval(tmp_path, "t2i")
    assert [theirs[f"recall_{k}"] for k in (1, 5, 10)] == [theirs[f"success_{k}"] for k in (1, 5, 10)]


def test_by_hand() -> None:
    similarity = np.array([[0.9, 0.1, 0.5, 0.4], [0.2, 0.8, 0.6, 0.3]])
    caption_image = np.array([0, 1, 0, 1])
    assert text_to_image_ranks(similarity, caption_image).tolist() == [1, 1, 2, 2]
    assert image_to_text_ranks(similarity, caption_image).tolist() == [1, 1]
    metrics = retrieval_metrics(similarity, caption_image)
    assert metrics == RetrievalMetrics(DirectionMetrics(50, 100, 100, 1.5), DirectionMetrics(100, 100, 100, 1), 2, 4)
    assert metrics.recall_sum == 550
    assert json.loads(json.dumps(metrics.to_dict())) == {
        "t2i": {"r1": 50.0, "r5": 100.0, "r10": 100.0, "median_rank": 1.5},
        "i2t": {"r1": 100.0, "r5": 100.0, "r10": 100.0, "median_rank": 1.0},
        "n_images": 2,
        "n_captions": 4,
        "recall_sum": 550.0,
    }


def test_recall_and_median_of_ranks() -> None:
    ranks = np.array([1, 2, 5, 6])
    assert [recall_at_k(ranks, k) for k in (1, 5, 10)] == [25, 75, 100]
    assert median_rank(ranks) == 3.5


def test_sibling_captions_do_not_stand_in_the_way() -> None:
    caption_image = np.repeat(np.arange(2), 3)
    similarity = np.array([[0.3, 0.3, 0.3, 0.2, 0.1, 0.1], [0.0, 0.0, 0.0, 0.5, 0.5, 0.5]])
    assert image_to_text_ranks(similarity, caption_image).tolist() == [1, 1]


def test_a_constant_scorer_gains_nothing() -> None:
    metrics = retrieval_metrics(np.zeros((20, 100)), np.repeat(np.arange(20), 5))
    assert metrics.recall_sum == 0
    assert (metrics.t2i.median_rank, metrics.i2t.median_rank) == (20, 96)


def test_minus_infinity_is_last() -> None:
    similarity = np.array([[-np.inf, 0.0], [1.0, 2.0]])
    assert text_to_image_ranks(similarity, np.array([0, 1])).tolist() == [2, 1]
    assert image_to_text_ranks(similarity, np.array([0, 1])).tolist() == [2, 1]


@given(
    seed=st.integers(0, 2**32 - 1),
    similarity=hnp.arrays(np.float32, (5, 12), elements=st.integers(-3, 3).map(float)),  # few values: many ties
)
def test_ranks_are_those_of_a_plain_count(seed: int, similarity: Floats) -> None:
    caption_image = np.random.default_rng(seed).permutation(np.arange(12) % 5)
    for caption, image in enumerate(caption_image):
        ahead = sum(similarity[other, caption] >= similarity[image, caption] for other in range(5) if other != image)
        assert text_to_image_ranks(similarity, caption_image)[caption] == 1 + ahead
    for image in range(5):
        best = max(similarity[image, caption] for caption in range(12) if caption_image[caption] == image)
        ahead = sum(similarity[image, caption] >= best for caption in range(12) if caption_image[caption] != image)
        assert image_to_text_ranks(similarity, caption_image)[image] == 1 + ahead


@given(st.integers(0, 2**32 - 1))
def test_order_of_images_and_captions_does_not_matter(seed: int) -> None:
    similarity, caption_image = random_case(seed, 8, 20)
    rng = np.random.default_rng(seed)
    images, captions = rng.permutation(8), rng.permutation(20)
    shuffled = retrieval_metrics(similarity[images][:, captions], np.argsort(images)[caption_image[captions]])
    assert shuffled == retrieval_metrics(similarity, caption_image)


@pytest.mark.parametrize(
    ("similarity", "caption_image", "message"),
    [
        (np.array([[0.1, np.nan]]), [0, 0], "NaN"),
        (np.zeros((2, 2)), [0, 0], "image 1 has no caption"),
        (np.zeros((2, 2)), [0, 2], "points outside the 2 images"),
        (np.zeros((2, 2)), [0, -1], "points outside"),
        (np.zeros((2, 3)), [0, 1], "similarity must be"),
        (np.zeros(2), [0, 1], "similarity must be"),
        (np.zeros((0, 0)), [], "nothing to measure"),
    ],
)
def test_what_cannot_be_measured_is_refused(similarity: Floats, caption_image: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(similarity, np.array(caption_image, dtype=np.int64))


def test_run_file(tmp_path: Path) -> None:
    scores = np.array([[0.25, 1.5, -np.inf], [0.5, 0.5, 0.1]], dtype=np.float32)
    write_trec_run(tmp_path / "run", scores, ["q 1", "q2"], ["a", "50%", "c\td"], depth=2, tag="test")
    assert (tmp_path / "run").read_text().splitlines() == [
        "q%201 Q0 50%25 1 1.5 test",
        "q%201 Q0 a 2 0.25 test",
        "q2 Q0 a 1 0.5 test",
        "q2 Q0 50%25 2 0.5 test",
    ]
    write_trec_run(tmp_path / "run", scores, ["q1", "q2"], ["a", "b", "c"])
    assert len((tmp_path / "run").read_text().splitlines()) == 5  # minus infinity is left out


def test_qrels_file(tmp_path: Path) -> None:
    write_qrels(tmp_path / "qrels", [("q 1", "a"), ("q2", "b")])
    assert (tmp_path / "qrels").read_text() == "q%201 0 a 1\nq2 0 b 1\n"


def test_scores_read_back_exactly(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).normal(size=(1, 50)).astype(np.float32)
    write_trec_run(tmp_path / "run", scores, ["q"], [str(index) for index in range(50)])
    read = {int(line.split()[2]): np.float32(line.split()[4]) for line in (tmp_path / "run").read_text().splitlines()}
    assert [read[index] for index in range(50)] == scores[0].tolist()


def test_run_files_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    scores = np.zeros((1, 2))
    with pytest.raises(ValueError, match="ids repeat"):
        write_trec_run(tmp_path / "run", scores, ["q"], ["a", "a"])
    with pytest.raises(ValueError, match="depth must be at least 1, not 0"):
        write_trec_run(tmp_path / "run", scores, ["q"], ["a", "b"], depth=0)
    with pytest.raises(ValueError, match="do not fit 1 queries and 1 items"):
        write_trec_run(tmp_path / "run", scores, ["q"], ["a"])
    with pytest.raises(ValueError, match="NaN"):
        write_trec_run(tmp_path / "run", scores * np.nan, ["q"], ["a", "b"])
    assert not (tmp_path / "run").exists()
