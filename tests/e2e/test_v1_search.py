"""``/v1/search``, ``/v1/captions`` and ``/v1/explain`` through the real services, against an oracle that uses none."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from shared.client import AsyncClient, Client, DiptychError, Term
from shared.schemas import ModelType
from shared.schemas_v1 import Target
from shared.scoring import Cut
from tests.support.oracle import Oracle
from tests.support.stack import Stack
from tests.support.store import Prepared

TOLERANCE = 2e-3
# Of photos of the collection: the oracle has them under the same ids.
BALL, CAT = "ball-red.jpg", "chelsea.png"


@pytest.fixture(scope="module")
def oracle(tiny_model: Path, prepared: Prepared) -> Oracle:
    return Oracle(tiny_model, prepared)


@pytest.fixture(scope="module")
def ids(oracle: Oracle) -> dict[str, str]:
    return {name: image_id for image_id, name in oracle.names.items()}


@pytest.mark.parametrize("model_type", ["dual", "cross"])
def test_one_text_is_what_the_seed_interface_finds(client: Client, model_type: ModelType) -> None:
    seed = client.text_to_image("a red ball on blue", 9, model_type)
    found = client.search("a red ball on blue", k=9, model_type=model_type)
    assert found.calibrated
    assert found.model_type == model_type
    assert [one.id for one in found.results] == [one.image_id for one in seed.results]
    assert [one.score for one in found.results] == pytest.approx([one.score for one in seed.results], abs=TOLERANCE)
    first = found.results[0]
    assert (first.image_name, first.image_path) == (seed.results[0].image_name, seed.results[0].image_path)


@pytest.mark.parametrize("model_type", ["dual", "cross"])
def test_one_picture_is_what_the_seed_interface_finds(
    client: Client, http: httpx.Client, photo: Path, ids: dict[str, str], model_type: ModelType
) -> None:
    seed = client.image_to_text(photo, 9, model_type)
    captions = [(one.caption, pytest.approx(one.score, abs=TOLERANCE)) for one in seed.results]
    encoded = base64.b64encode(photo.read_bytes()).decode()
    for image in ({"image": encoded}, {"image": f"data:image/png;base64,{encoded}"}, {"id": ids[photo.name]}):
        answer = http.post("/v1/captions", json={**image, "k": 9, "model_type": model_type}).json()
        assert answer["calibrated"]
        assert [(one["caption"], one["score"]) for one in answer["results"]] == captions
        assert {one["image_id"] for one in answer["results"]} <= set(ids.values())
    again = client.search(photo, target="captions", k=9, model_type=model_type).results
    assert [one.caption for one in again] == [one.caption for one in seed.results]


@pytest.mark.parametrize("target", ["images", "captions"])
@pytest.mark.parametrize(
    "terms",
    [
        [{"text": "a red ball"}, {"text": "blue", "weight": -0.7}],
        [{"id": CAT}, {"text": "on blue", "weight": 2.5}],
        [{"image": BALL}, {"id": CAT, "weight": -1}, {"text": "a tree", "weight": 0.3}],
        [{"id": BALL}],
    ],
)
def test_a_composed_query_is_the_normalised_weighted_sum(
    http: httpx.Client,
    oracle: Oracle,
    prepared: Prepared,
    ids: dict[str, str],
    terms: list[dict[str, Any]],
    target: Target,
) -> None:
    query, vectors = [], []
    for term in terms:
        weight = term.get("weight", 1)
        if "text" in term:
            query.append(term)
            vectors.append(weight * oracle.text_vector(term["text"]))
        else:
            name = term.get("id") or term["image"]
            data = (prepared.photos / name).read_bytes()
            sent = {"id": ids[name]} if "id" in term else {"image": base64.b64encode(data).decode()}
            query.append({**sent, "weight": weight})
            vectors.append(weight * oracle.image_vector(ids[name]))
    total = np.sum(vectors, axis=0)
    expected = oracle.cosines(total / np.linalg.norm(total), target)
    for term in terms:
        if target == "images" and "id" in term:
            expected.pop(ids[term["id"]])
    answer = http.post("/v1/search", json={"query": query, "target": target, "k": 100, "explain": True}).json()
    found = {one["caption"] if target == "captions" else one["id"]: one for one in answer["results"]}
    assert found.keys() == expected.keys()
    assert [one["similarity"] for one in found.values()] == pytest.approx(
        sorted(expected.values(), reverse=True), abs=TOLERANCE
    )
    calibrated = target == "captions" and len(terms) == 1
    assert answer["calibrated"] == calibrated
    for name, one in found.items():
        assert one["similarity"] == pytest.approx(expected[name], abs=TOLERANCE)
        assert (one["score"] is not None) == calibrated
        parts = one["explanation"]["terms"]
        assert sum(part["contribution"] for part in parts) == pytest.approx(one["similarity"], abs=1e-4)
        assert len(parts) == len(terms)


def test_pages_fit_together(client: Client) -> None:
    queries: tuple[tuple[tuple[str | Term, ...], ModelType], ...] = (
        (("a tree", Term(text="red", weight=-0.5)), "cross"),
        (("a tree",), "dual"),
    )
    for query, model_type in queries:
        whole = client.search(*query, k=100, model_type=model_type)
        assert (len(whole.results), whole.next_offset) == (15, None)
        offset: int | None = 0
        paged = []
        while offset is not None:
            page = client.search(*query, k=4, offset=offset, model_type=model_type)
            paged += page.results
            offset = page.next_offset
        assert [one.id for one in paged] == [one.id for one in whole.results]
        assert client.search(*query, k=4, offset=500).results == []


def test_what_is_left_out(client: Client) -> None:
    whole = client.search("a red ball", k=15)
    scores = [one.score or 0 for one in whole.results]
    some = client.search("a red ball", k=10, min_score=scores[6])
    assert ([one.id for one in some.results], some.left_out) == ([one.id for one in whole.results[:7]], 3)
    assert some.next_offset is None
    kept = Cut(cutoff="auto").kept(np.array(scores))
    assert len(client.search("a red ball", k=15, cutoff="auto").results) == kept
    alike = client.search("a red ball", "a tree", k=15)
    limit = alike.results[4].similarity
    fewer = client.search("a red ball", "a tree", k=15, min_similarity=limit)
    assert ([one.id for one in fewer.results], fewer.left_out) == ([one.id for one in alike.results[:5]], 10)
    with pytest.raises(DiptychError, match="only for one text"):
        client.search("a red ball", "a tree", cutoff="auto")


def test_cross_attention_looks_for_the_only_text(
    client: Client, oracle: Oracle, photo: Path, ids: dict[str, str]
) -> None:
    mixed = client.search("a red ball", Term(id=ids[CAT], weight=0.5), model_type="cross", k=20, explain=True)
    assert (mixed.model_type, mixed.degraded, mixed.calibrated) == ("cross", False, False)
    logits = {one.id: one.explanation.logit for one in mixed.results if one.explanation}
    assert logits == pytest.approx({image_id: oracle.logit("a red ball", image_id) for image_id in logits}, abs=0.02)
    several = client.search("a red ball", "a tree", model_type="cross")
    assert (several.model_type, several.degraded, several.degraded_reason) == ("dual", True, "no-single-term")
    for lookalikes in (client.search(Term(id=ids[CAT]), model_type="cross"), client.search(photo, model_type="cross")):
        assert lookalikes.degraded_reason == "no-single-term"
    assert client.search("a red ball", photo, target="captions", model_type="cross").model_type == "cross"


def test_an_explanation_says_where_it_all_came_from(client: Client, photo: Path, ids: dict[str, str]) -> None:
    terms: list[str | Path | Term] = ["what nobody asked before", photo, Term(id=ids[BALL])]
    client.search(photo, target="captions")
    first = client.search(*terms, explain=True)
    assert [term.embedding for term in first.query or []] == ["encoder", "cache", "index"]
    assert [term.kind for term in first.query or []] == ["text", "image", "id"]
    assert {"total", "terms", "search", "explain"} <= first.timings_ms.keys()
    again = client.search(*terms, explain=True)
    assert (first.cached, again.cached) == (False, True)
    assert [term.embedding for term in again.query or []] == ["cache", "cache", "index"]
    assert again.results == first.results
    assert client.search(*terms).results[0].explanation is None


def test_more_like_this_embeds_nothing_and_follows_the_collection(
    client: Client, stack: Stack, photo: Path, ids: dict[str, str]
) -> None:
    client.put_image(photo, image_id="a-copy")
    try:
        like = client.search(Term(id="a-copy"), k=3)
        assert like.results[0].id == ids[CAT]
        assert like.results[0].similarity == pytest.approx(1, abs=1e-3)
        assert client.search(Term(id=ids[CAT]), k=1).results[0].id == "a-copy"
    finally:
        client.remove_image("a-copy")
    with pytest.raises(DiptychError, match="no item 'a-copy'") as caught:
        client.search(Term(id="a-copy"))
    assert caught.value.status == 404


def test_terms_that_cancel_each_other_out(client: Client) -> None:
    with pytest.raises(DiptychError, match="cancel each other out") as caught:
        client.search("a dog", Term(text="a dog", weight=-1))
    assert caught.value.status == 422


def test_tags_narrow_it(client: Client, photo: Path) -> None:
    client.put_image(photo, image_id="a-tagged-one", tags=["rare"], metadata={"year": 1999}, captions=["rare words"])
    try:
        (found,) = client.search("a dog", photo, tags=["rare"]).results
        assert (found.id, found.tags, found.metadata) == ("a-tagged-one", ["rare"], {"year": 1999})
        (caption,) = client.search("a dog", target="captions", tags=["rare"]).results
        assert caption.caption == "rare words"
    finally:
        client.remove_image("a-tagged-one")


def test_where_words_are_seen(client: Client, oracle: Oracle, ids: dict[str, str]) -> None:
    told = client.explain("a red ball; the ball!", ids[BALL])
    assert [word.word for word in told.words] == ["a", "red", "ball", "the", "ball"]
    assert [told.text[word.start : word.end] for word in told.words] == [word.word for word in told.words]
    for word in told.words:
        expected = oracle.losses(word.word, ids[BALL])
        grid = np.array(word.weights)
        assert grid.shape == (told.rows, told.columns)
        assert word.peak == pytest.approx(expected.max(), abs=0.02)
        low, high = expected.min(), expected.max()
        assert grid * (high - low) + low == pytest.approx(expected, abs=0.02)
    for text, image_id, status in (("?!", ids[BALL], 422), ("a " * 33, ids[BALL], 422), ("a", "nobody", 404)):
        with pytest.raises(DiptychError) as caught:
            client.explain(text, image_id)
        assert caught.value.status == status


async def test_the_asynchronous_client(stack: Stack, photo: Path, ids: dict[str, str]) -> None:
    async with AsyncClient(stack.url("gateway"), retries=0) as client:
        assert len((await client.search("a dog", photo.read_bytes(), k=3)).results) == 3
        assert len((await client.explain("a dog", ids[BALL])).words) == 2
        assert (await client.embed(["a dog", photo], "tiny")).shape[0] == 2
