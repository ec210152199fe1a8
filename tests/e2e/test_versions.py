"""New versions, and the way back, while questions go on being asked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from shared.artifacts import RefusedError
from shared.client import Client
from tests.support.load import Load, same
from tests.support.stack import Stack
from tests.support.store import MODELS, WITHOUT_RERANKER, Prepared
from tests.support.waiting import wait_for

OLD, NEW = ("tiny/1", "photos/1"), ("tiny/2", "photos/2")


@pytest.fixture
def store(prepared: Prepared, client: Client) -> Iterator[Prepared]:
    """Whatever a test points to, the first pair answers again when it is over."""
    yield prepared
    prepared.store.activate(MODELS[0], prepared.indexes[0])
    wait_for(lambda: versions(client) == OLD, "the first pair to answer again")


def versions(client: Client) -> tuple[str, str]:
    answer = client.text_to_image("which version are you?", k=1)
    return answer.model_version, answer.index_version


def problem_of(stack: Stack, name: str) -> str:
    return str(httpx.get(f"{stack.url(name)}/status", timeout=30).json()["problem"])


def test_publishing_and_going_back_cost_no_request(stack: Stack, client: Client, store: Prepared, photo: Path) -> None:
    text = "the dog runs on snow"
    old = client.text_to_image(text, k=10)
    with Load(stack.url("gateway")) as load:
        load.wait_for_answers()
        store.store.activate(MODELS[1], store.indexes[1])
        wait_for(lambda: versions(client) == NEW, "the new pair to answer")
        load.wait_for_answers()
        new = client.text_to_image(text, k=10)
        assert (new.model_version, new.index_version, new.cached) == (*NEW, False)
        assert not same(new.results, old.results)
        assert client.image_to_text(photo).model_version == "tiny/2"
        assert (client.models().current, client.models().index) == NEW

        store.store.rollback()
        wait_for(lambda: versions(client) == OLD, "the old pair to answer")
        load.wait_for_answers()
        back = client.text_to_image(text, k=10)
        assert (back.model_version, back.index_version, same(back.results, old.results)) == (*OLD, True)
    assert not load.failures
    assert not any(answer.degraded for answer in load.answers)
    # Never a model with the other's index, not even for one answer.
    assert {(answer.model_version, answer.index_version) for answer in load.answers} == {OLD, NEW}


def test_an_index_of_another_model_is_refused_and_nothing_changes(client: Client, store: Prepared) -> None:
    before = store.store.current()
    with pytest.raises(RefusedError, match=r"index photos/1 was built by model tiny/1 .*, not by tiny/2"):
        store.store.activate(MODELS[1], store.indexes[0])
    assert store.store.current() == before
    assert versions(client) == OLD


def test_a_pointer_to_a_mismatched_pair_is_not_followed(stack: Stack, client: Client, store: Prepared) -> None:
    pointer = store.store.pointer
    written = pointer.read_text()
    with Load(stack.url("gateway")) as load:
        load.wait_for_answers()
        store.store.activate(MODELS[1], store.indexes[1])
        _mislabel(store, "3")
        pointer.write_text(pointer.read_text().replace('"photos/2"', '"photos/3"'))
        wait_for(lambda: "photos/3 cannot be served" in problem_of(stack, "index"), "the index to refuse photos/3")
        assert "it was built by model tiny/1" in problem_of(stack, "index")
        wait_for(lambda: "tiny/2" in _loaded(stack), "the encoder to load tiny/2")
        time.sleep(2)  # past the grace of what was replaced
        load.wait_for_answers()
        assert versions(client) == OLD
        pointer.write_text(written)
        wait_for(lambda: problem_of(stack, "index") == "None", "the index to be content again")
    assert not load.failures
    assert {(answer.model_version, answer.index_version) for answer in load.answers} == {OLD}


def test_a_model_without_a_reranker_answers_as_the_dual_one_and_says_so(
    client: Client, http: httpx.Client, store: Prepared
) -> None:
    text = "the woman sits on the beach"
    dual = client.text_to_image(text, k=4).results
    assert not client.text_to_image(text, k=4, model_type="cross").degraded
    # Same towers, so the index that is there fits.
    store.store.activate(WITHOUT_RERANKER, store.indexes[0])
    wait_for(lambda: versions(client) == (str(WITHOUT_RERANKER), "photos/1"), "the model without a reranker")
    answer = http.post("/text-to-image", data={"text": text, "k": "4", "model_type": "cross"})
    assert answer.headers["X-Diptych-Degraded"] == "no-reranker"
    assert (answer.json()["model_type"], answer.json()["degraded"]) == ("dual", True)
    assert [found["image_id"] for found in answer.json()["results"]] == [found.image_id for found in dual]
    plain = http.post("/text-to-image", data={"text": text, "k": "4"})
    assert plain.json()["degraded"] is False
    assert "X-Diptych-Degraded" not in plain.headers


def test_photos_without_captions(client: Client, store: Prepared, photo: Path) -> None:
    store.store.activate(MODELS[0], store.captionless)
    wait_for(lambda: versions(client) == ("tiny/1", str(store.captionless)), "the index without captions")
    for model_type in ("dual", "cross"):
        assert client.image_to_text(photo, model_type=model_type).results == []
        assert len(client.text_to_image("a dog", k=9, model_type=model_type).results) == 1


def _mislabel(store: Prepared, version: str) -> None:
    """Publish the first model's index once more under another version."""
    first = store.store.path("index", store.indexes[0])
    store.store.publish(first, version=version)


def _loaded(stack: Stack) -> list[str]:
    return [model["ref"] for model in httpx.get(f"{stack.url('encoder')}/status", timeout=30).json()["models"]]
