"""Evaluation with a scorer whose answers were worked out by hand, and with a real artifact."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
from rich.console import Console

from shared.engines import open_engine
from shared.schemas import CrossScoring, Scoring
from shared.tokens import TokenFeatures
from training import evaluate
from training.data import layouts
from training.evaluate import Candidates, Embedded

QUIET = Console(quiet=True)
# Three photos, two captions each. By cosine alone captions 0, 2, 3 and 5 find their photo.
SIMILARITY = np.array(
    [
        [0.9, 0.4, 0.1, 0.2, 0.3, 0.1],
        [0.1, 0.5, 0.8, 0.7, 0.6, 0.2],
        [0.2, 0.1, 0.3, 0.1, 0.5, 0.9],
    ],
    np.float32,
)
OWN = np.array([0, 0, 1, 1, 2, 2])


def _tokens(number: int) -> TokenFeatures:
    """One token that carries its item's number."""
    return TokenFeatures(np.full((1, 2), number, np.int8), np.ones(1, np.float16))


SPLIT = Embedded(
    ["one.jpg", "two words.jpg", "three.jpg"],
    OWN,
    np.eye(3, dtype=np.float32),
    np.ascontiguousarray(SIMILARITY.T),
    [_tokens(n) for n in range(3)],
    [_tokens(n) for n in range(6)],
)


class _Matcher:
    """A reranker that reads the numbers off the tokens and looks its logit up, noting every pair."""

    LOGITS = np.where(np.arange(3)[:, None] == OWN, 2.0, -1.0)  # (photos, captions)

    def __init__(self) -> None:
        self.calls: list[list[tuple[int, int]]] = []

    def rerank(self, texts: Sequence[TokenFeatures], images: Sequence[TokenFeatures]) -> np.ndarray:
        pairs = [(int(i.codes[0, 0]), int(t.codes[0, 0])) for t, i in zip(texts, images, strict=True)]
        self.calls.append(pairs)
        return np.array([self.LOGITS[pair] for pair in pairs], np.float32)


def _weighted(text_to_image: float, image_to_text: float) -> Scoring:
    return Scoring(
        text_to_image=CrossScoring(similarity_weight=text_to_image),
        image_to_text=CrossScoring(similarity_weight=image_to_text),
    )


def _reranked(depth: int) -> tuple[_Matcher, Candidates]:
    matcher = _Matcher()
    return matcher, evaluate.rerank(matcher, SPLIT, depth, QUIET)  # type: ignore[arg-type]


def test_the_dual_figures_are_those_counted_by_hand() -> None:
    found = evaluate.figures(SIMILARITY, SIMILARITY, OWN)
    assert found["t2i"] == {"r1": 66.667, "r5": 100, "r10": 100, "median_rank": 1}
    assert found["i2t"] == {"r1": 100, "r5": 100, "r10": 100, "median_rank": 1}


def test_only_the_dual_encoders_best_are_reranked() -> None:
    matcher, found = _reranked(depth=2)
    assert found.t2i.tolist() == [[0, 2], [1, 0], [1, 2], [1, 0], [1, 2], [2, 1]]
    assert found.i2t.tolist() == [[0, 1], [2, 3], [5, 4]]
    assert matcher.calls[:2] == [[(0, 0), (2, 0)], [(1, 1), (0, 1)]]
    assert matcher.calls[6:] == [[(0, 0), (0, 1)], [(1, 2), (1, 3)], [(2, 5), (2, 4)]]
    for caption, (rows, logits) in enumerate(zip(found.t2i, found.t2i_logits, strict=True)):
        assert logits.tolist() == [_Matcher.LOGITS[row, caption] for row in rows]
    for photo, (rows, logits) in enumerate(zip(found.i2t, found.i2t_logits, strict=True)):
        assert logits.tolist() == [_Matcher.LOGITS[photo, row] for row in rows]


def test_cross_scores_rank_what_was_reranked_first_and_the_rest_in_dual_order() -> None:
    _, found = _reranked(depth=2)
    t2i, i2t = evaluate.cross_scores(SPLIT, found, _weighted(10, 10))
    # Caption 1: photo 0 by 2 + 10 * 0.4 = 6, photo 1 by -1 + 10 * 0.5 = 4; photo 2 was not reranked.
    np.testing.assert_allclose(t2i[:2, 1], [6, 4], atol=1e-5)
    assert (-t2i[:, 1]).argsort().tolist() == [0, 1, 2]
    assert evaluate.figures(t2i, i2t, OWN)["t2i"]["r1"] == 100
    # Photo 1: its captions by 2 + 8 and 2 + 7, then 4, 1, 5, 0 in the dual encoder's order.
    assert (-i2t[1]).argsort(kind="stable").tolist() == [2, 3, 4, 1, 5, 0]
    # A weight that lets the cosine decide gives the dual encoder's order back.
    heavy, _ = evaluate.cross_scores(SPLIT, found, _weighted(1000, 10))
    assert ((-heavy).argsort(axis=0, kind="stable") == (-SIMILARITY).argsort(axis=0, kind="stable")).all()
    np.testing.assert_array_equal(evaluate.cross_scores(SPLIT, found, _weighted(1000, 10))[1], i2t)


def test_a_depth_beyond_the_collection_reranks_everything() -> None:
    _, found = _reranked(depth=50)
    assert found.t2i.shape == (6, 3)
    assert found.i2t.shape == (3, 6)


def test_the_weights_that_are_best_on_dev_are_chosen_and_calibrated() -> None:
    _, found = _reranked(depth=3)
    scoring = evaluate.fit_scoring(SPLIT, found)
    best = evaluate.figures(*evaluate.cross_scores(SPLIT, found, scoring), OWN)
    assert best["t2i"]["r1"] == best["i2t"]["r1"] == 100
    assert scoring.dual.scale > 0
    for cross in (scoring.text_to_image, scoring.image_to_text):
        assert cross.scale > 0
    assert evaluate.fit_scoring(SPLIT, None).text_to_image == CrossScoring()


@pytest.mark.parametrize("model_type", ["dual", "cross"])
def test_a_real_artifact_is_evaluated_and_trec_eval_agrees(
    tiny_model: Path, drawn_photos: Path, tmp_path: Path, model_type: str
) -> None:
    engine = open_engine(tiny_model, engine="onnx", device="cpu", threads=1)
    data = layouts.load(drawn_photos, "test")
    report = evaluate.evaluate(engine, data, model_type, QUIET, depth=3, trec=tmp_path)  # type: ignore[arg-type]
    assert (report["artifact"], report["images"], report["captions"]) == ("tiny/1", 6, 12)
    assert report["fingerprint"] == engine.manifest.fingerprint
    assert report["bytes"] == sum(path.stat().st_size for path in tiny_model.iterdir() if path.name != "manifest.json")
    assert report["photo_milliseconds"] > 0
    assert report.get("rerank_depth") == (3 if model_type == "cross" else None)
    for way in ("t2i", "i2t"):
        with (tmp_path / f"{way}.qrels").open() as qrels, (tmp_path / f"{model_type}.{way}.run").open() as run:
            judged, ran = pytrec_eval.parse_qrel(qrels), pytrec_eval.parse_run(run)
        assert len(judged) == len(ran) == (12 if way == "t2i" else 6)
        found = pytrec_eval.RelevanceEvaluator(judged, {"success_1", "success_5"}).evaluate(ran)
        for k in (1, 5):
            recall = 100 * np.mean([query[f"success_{k}"] for query in found.values()])
            assert report[way][f"r{k}"] == pytest.approx(recall, abs=1e-3)


def test_captions_are_named_after_their_photos() -> None:
    assert SPLIT.caption_names == [f"{name}#{n}" for name in SPLIT.names for n in (0, 1)]


def test_the_batches_of_embedding_do_not_show(tiny_model: Path, drawn_photos: Path) -> None:
    engine = open_engine(tiny_model, engine="onnx", device="cpu", threads=1)
    data = layouts.load(drawn_photos, "test")
    whole, parts = (evaluate.embed(engine, data, QUIET, batch=size) for size in (64, 4))
    np.testing.assert_allclose(whole.similarity, parts.similarity, atol=1e-5)
    texts = [text for image in data.images for text in image.captions]
    np.testing.assert_allclose(whole.text_vectors, engine.embed_texts(texts).embedding, atol=1e-5)
    assert [len(tokens) for tokens in whole.text_tokens] == [len(text.split()) + 2 for text in texts]
