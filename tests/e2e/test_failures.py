"""``kill -9`` of each service in turn, under load."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from shared.client import Client, DiptychError
from shared.schemas import ImageResult
from tests.support.load import Load, same
from tests.support.stack import Stack
from tests.support.waiting import wait_for

UNAVAILABLE = "A service this one depends on is not answering"
NOT_READY = "The service is not ready"


@dataclass(frozen=True)
class Known:
    """A question that was asked before, and its answers."""

    text: str
    dual: list[ImageResult]
    cross: list[ImageResult]

    def holds(self, client: Client) -> bool:
        """Whether it is answered as before, cached or not."""
        dual, cross = (client.text_to_image(self.text, 1000, model_type) for model_type in ("dual", "cross"))
        return same(dual.results, self.dual) and same(cross.results, self.cross) and not cross.degraded


@pytest.fixture
def known(client: Client, request: pytest.FixtureRequest) -> Known:
    text = f"asked before {request.node.name}"
    dual, cross = (client.text_to_image(text, 1000, model_type).results for model_type in ("dual", "cross"))
    return Known(text, dual, cross)


@pytest.fixture
def load(stack: Stack) -> Iterator[Load]:
    with Load(stack.url("gateway")) as load:
        load.wait_for_answers()
        yield load
        load.wait_for_answers()


def health(stack: Stack, name: str, kind: str) -> int:
    return httpx.get(f"{stack.url(name)}/health/{kind}", timeout=30).status_code


def assert_up(stack: Stack, *names: str) -> None:
    assert [health(stack, name, "live") for name in names] == [200] * len(names)


def says_what_is_missing(client: Client, stack: Stack, name: str) -> bool:
    problems = client.ready().problems
    return len(problems) == 1 and problems[0].startswith(f"the {name} at {stack.url(name)} does not answer")


def test_the_encoder_is_killed(stack: Stack, client: Client, http: httpx.Client, known: Known, load: Load) -> None:
    stack.kill("encoder")
    wait_for(lambda: says_what_is_missing(client, stack, "encoder"), "the gateway to miss the encoder")
    assert_up(stack, "index", "gateway")
    assert health(stack, "index", "ready") == 200
    load.wait_for_failures()
    assert known.holds(client)
    with pytest.raises(DiptychError, match=r"the encoder at .* does not answer") as caught:
        client.text_to_image("never asked before")
    assert (caught.value.status, caught.value.title) == (503, UNAVAILABLE)

    # The embedding is known, the answer is not: the dual model can do without the encoder, the cross model cannot.
    dual = client.text_to_image(known.text, 5)
    assert (dual.cached, dual.degraded, same(dual.results, known.dual[:5])) == (False, False, True)
    raw = http.post("/text-to-image", data={"text": known.text, "k": "5", "model_type": "cross"})
    assert raw.headers["X-Diptych-Degraded"] == "neighbour-unavailable"
    assert (raw.json()["model_type"], raw.json()["degraded"]) == ("dual", True)
    assert [found["image_id"] for found in raw.json()["results"]] == [found.image_id for found in known.dual[:5]]

    stack.restart("encoder")
    load.wait_for_answers()
    again = client.text_to_image(known.text, 5, "cross")
    assert (again.degraded, again.cached, same(again.results, known.cross[:5])) == (False, False, True)
    assert set(load.failed_with) <= {UNAVAILABLE, NOT_READY}


def test_the_index_is_killed(stack: Stack, client: Client, known: Known, load: Load) -> None:
    before = client.models().indexes
    stack.kill("index")
    wait_for(lambda: says_what_is_missing(client, stack, "index"), "the gateway to miss the index")
    assert_up(stack, "encoder", "gateway")
    assert health(stack, "encoder", "ready") == 200
    load.wait_for_failures()
    assert known.holds(client)
    with pytest.raises(DiptychError, match=r"the index at .* does not answer") as caught:
        client.text_to_image("never asked before either")
    assert (caught.value.status, caught.value.title) == (503, UNAVAILABLE)

    stack.restart("index")
    load.wait_for_answers()
    assert client.models().indexes == before
    fresh = client.text_to_image(f"{known.text} ", 999)  # blanks at the ends are no other question, 999 is another k
    assert (fresh.cached, same(fresh.results, known.dual)) == (False, True)
    assert set(load.failed_with) <= {UNAVAILABLE, NOT_READY}


def test_the_gateway_is_killed(stack: Stack, client: Client, known: Known, load: Load) -> None:
    stack.kill("gateway")
    load.wait_for_failures()
    assert_up(stack, "encoder", "index")
    assert [health(stack, name, "ready") for name in ("encoder", "index")] == [200, 200]
    stack.restart("gateway")
    load.wait_for_answers()
    assert known.holds(client)
    assert set(load.failed_with) == {"The gateway cannot be reached"}


def test_redis_is_killed(stack: Stack, client: Client, http: httpx.Client, known: Known, load: Load) -> None:
    stack.kill("redis")
    load.wait_for_answers(30)
    assert known.holds(client)
    assert not client.text_to_image(known.text, 1000).cached
    assert client.ready().ready
    assert 'diptych_gateway_neighbour_up{neighbour="redis"} 0.0' in http.get("/metrics").text
    stack.start("redis")
    wait_for(lambda: client.text_to_image(known.text, 1000).cached, "answers to be cached again")
    assert known.holds(client)
    assert not load.failures
