from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from services.demo import render
from services.demo.words import CHINESE, ENGLISH, LANGUAGES
from shared.client import DiptychError
from shared.schemas import (
    CaptionResult,
    Duplicate,
    ImageResult,
    ImageToTextResponse,
    ModelsResponse,
    ServedIndex,
    TextToImageResponse,
)
from shared.schemas_v1 import WordMap

EVIL = '<script>alert("&")</script>'
ESCAPED = "&lt;script&gt;alert(&quot;&amp;&quot;)&lt;/script&gt;"


def pictures(count: int, **fields: Any) -> TextToImageResponse:
    result = ImageResult(image_path="/images/a", image_name="a.jpg", score=0.5, image_id="a", thumbnail_path="")
    common = {"model_type": "dual", "model_version": "m/1", "index_version": "i/1", "query": "q"}
    return TextToImageResponse.model_validate({**common, "results": [result] * count, **fields})


def test_every_text_from_outside_is_escaped() -> None:
    shown = [
        render.hint(EVIL),
        render.problem(DiptychError(500, EVIL, EVIL, EVIL)),
        render.answer(pictures(1, model_version=EVIL, index_version=EVIL, timings_ms={EVIL: 1}), "dual"),
        render.listed([EVIL]),
        render.picture(b"jpeg", EVIL),
        render.added([render.Added(EVIL, EVIL)], 1),
        render.captions([CaptionResult(caption=EVIL, score=0.5, caption_id="c")]),
    ]
    for html in shown:
        assert "<script>" not in html
        assert ESCAPED in html


def test_a_problem_names_the_request_when_it_is_known() -> None:
    assert "Request r1" in render.problem(DiptychError(503, "Busy", "come back", "r1"))
    assert "Request" not in render.problem(DiptychError(None, "Away", "nobody answers"))
    assert 'role="alert"' in render.problem(DiptychError(None, "Away", "nobody answers"))


@pytest.mark.parametrize(("count", "words"), [(0, "0 pictures"), (1, "1 picture<"), (2, "2 pictures")])
def test_an_answer_counts_its_results(count: int, words: str) -> None:
    assert words in render.answer(pictures(count), "dual")


def test_an_answer_says_versions_and_time_per_stage() -> None:
    timings = {"embed": 12.4, "search": 1.2, "total": 14.6}
    html = render.answer(pictures(1, timings_ms=timings), "dual")
    for part in ("Dual encoder", "model m/1", "index i/1", "15 ms (embed 12, search 1)"):
        assert part in html
    assert "15 ms, from the cache" in render.answer(pictures(1, timings_ms=timings, cached=True), "dual")
    assert " ms" not in render.answer(pictures(1), "dual")


def test_an_answer_says_what_was_left_out() -> None:
    assert "4 less likely left out" in render.answer(pictures(2, left_out=4), "dual")
    assert "left out" not in render.answer(pictures(2), "dual")


def test_a_degraded_answer_says_what_ranked_instead() -> None:
    html = render.answer(pictures(1, degraded=True), "cross")
    assert "Cross-attention could not be had" in html
    assert "ranked by the dual encoder" in html
    assert "could not be had" not in render.answer(pictures(1), "dual")


def test_captions_keep_their_order_and_are_compared_with_the_best() -> None:
    results = [CaptionResult(caption=f"c{n}", score=score, caption_id=str(n)) for n, score in enumerate((0.8, 0.02))]
    html = render.captions(results)
    assert html.index("c0") < html.index("c1")
    for part in ("80%", "width:100.0%", "2.0%", "width:2.5%"):
        assert part in html
    assert render.captions([]) == '<ol class="captions"></ol>'
    assert "width:0.0%" in render.captions([CaptionResult(caption="c", score=0.0, caption_id="c")])


@pytest.mark.parametrize(
    ("score", "text"), [(1.0, "100%"), (0.64, "64%"), (0.0999, "10%"), (0.031, "3.1%"), (0, "0.0%")]
)
def test_a_score_has_about_two_digits(score: float, text: str) -> None:
    assert render.percent(score) == text


def test_image_to_text_counts_captions() -> None:
    answer = ImageToTextResponse(
        model_type="dual", model_version="m/1", index_version="i/1", query_image="a.jpg", results=[]
    )
    assert "0 captions" in render.answer(answer, "dual")


def test_the_collection_is_that_of_the_index_being_served() -> None:
    indexes = [
        ServedIndex(ref=ref, fingerprint="f", embedding_dim=4, collections=collections)
        for ref, collections in (("i/1", {"images": 1, "captions": 5}), ("i/2", {"images": 8000, "captions": 40000}))
    ]
    html = render.collection(ModelsResponse(current="m/1", index="i/2", models=[], indexes=indexes))
    assert "8,000" in html
    assert "40,000" in html
    assert "No photos" in render.collection(ModelsResponse(current="m/1", index=None, models=[], indexes=[]))


def test_moves_are_counted_from_where_a_picture_was() -> None:
    assert render.moves(["a", "b", "c"], ["c", "a", "b", "d"]) == ["▲2", "▼1", "▼1", "new"]
    assert render.moves(["a"], ["a"]) == ["="]


def test_what_became_of_added_files() -> None:
    twin = Duplicate(id="cafe", kind="near", similarity=0.99)
    html = render.added([render.Added("a.jpg", "added", [twin]), render.Added("b.jpg", "no image", failed=True)], 3)
    assert "1 of 3 are in the collection" in html
    assert "looks like cafe" in html
    assert html.index('class="done"') < html.index("a.jpg") < html.index('class="failed"') < html.index("b.jpg")


def test_where_a_word_is_seen_lies_over_the_picture_as_a_grid() -> None:
    seen = WordMap(word="dog", start=0, end=3, peak=1.0, weights=[[0, 0.5, 1], [0, 0, 0.25]])
    html = render.picture(b"jpeg", "a.jpg", seen)
    assert 'src="data:image/jpeg;base64,anBlZw=="' in html
    assert 'viewBox="0 0 3 2"' in html
    assert '<rect x="2" y="0" width="1" height="1" fill-opacity="1.00"/>' in html
    assert '<rect x="2" y="1" width="1" height="1" fill-opacity="0.25"/>' in html
    assert "<svg" not in render.picture(b"jpeg", "a.jpg")


def test_every_language_says_everything_with_the_same_places_to_fill() -> None:
    english = dataclasses.asdict(ENGLISH)
    for words in LANGUAGES:
        for name, said in dataclasses.asdict(words).items():
            assert type(said) is type(english[name]), name
            assert str(said).count("{}") == str(english[name]).count("{}"), name
            assert said or name == "only_english"
    assert "2 张图片" in render.answer(pictures(2), "dual", CHINESE)
    assert "交叉注意力暂时不可用" in render.answer(pictures(1, degraded=True), "cross", CHINESE)
