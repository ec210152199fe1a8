"""Neighbours that hang, dawdle, break off or talk nonsense. Those that are killed are in test_failures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import httpx
import pytest
from redis import Redis

from shared.client import Client, DiptychError
from shared.schemas import TextToImageResponse
from tests.support.load import same
from tests.support.proxy import Fault, Proxy
from tests.support.stack import Stack
from tests.support.store import Prepared
from tests.support.waiting import wait_for

T = TypeVar("T")
PATIENCE = 2.0  # of the gateway with its neighbours
AT_ONCE = 1.0  # what is not waited for takes less than this, on a busy machine too
SLOTS = 8
FAULTS: tuple[Fault, ...] = ("silent", "reset", "cut", "garbage", "spoilt")


@pytest.fixture(scope="module")
def proxies() -> Iterator[dict[str, Proxy]]:
    with Proxy() as encoder, Proxy() as index, Proxy() as redis:
        yield {"encoder": encoder, "index": index, "redis": redis}


@pytest.fixture(scope="module")
def stack(proxies: dict[str, Proxy], prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    settings = {
        "DIPTYCH_GATEWAY_ENCODER_URL": proxies["encoder"].url,
        "DIPTYCH_GATEWAY_INDEX_URL": proxies["index"].url,
        "DIPTYCH_REDIS_URL": f"redis://127.0.0.1:{proxies['redis'].port}/0",
        **{f"DIPTYCH_GATEWAY_{work}_SECONDS": str(PATIENCE) for work in ("EMBED", "SEARCH", "RERANK")},
        "DIPTYCH_GATEWAY_REDIS_TIMEOUT_SECONDS": "1",
        "DIPTYCH_GATEWAY_MAX_SEARCHES": str(SLOTS),
        "DIPTYCH_GATEWAY_CACHE_HOT_BYTES": "0",  # what is cached is in Redis, which can fail and be emptied
    }
    stack = Stack(tmp_path_factory.mktemp("faults"), prepared.store.root, settings)
    for name, proxy in proxies.items():
        proxy.target = stack.port(name)
    with stack:
        yield stack


@pytest.fixture(autouse=True)
def everything_works(stack: Stack, client: Client, request: pytest.FixtureRequest) -> Iterator[None]:
    """Before each test, and again after it without anybody's help."""
    wait_for(lambda: works(client, f"before {request.node.name}"), "searches to be answered")
    yield
    wait_for(lambda: works(client, f"after {request.node.name}"), "searches to be answered again")
    wait_for(lambda: client.ready().ready, "the gateway to be ready again")
    assert '"unhandled"' not in stack.log("gateway")


def works(client: Client, text: str) -> bool:
    try:
        return not client.text_to_image(f"{text} {time.monotonic()}", model_type="cross").degraded
    except DiptychError:
        return False


@contextmanager
def fault(proxy: Proxy, kind: Fault) -> Iterator[None]:
    proxy.fault = kind
    try:
        yield
    finally:
        proxy.fault = "none"


def timed(ask: Callable[[], T]) -> tuple[float, T]:
    started = time.monotonic()
    answer = ask()
    return time.monotonic() - started, answer


def refusal(client: Client, text: str) -> DiptychError:
    with pytest.raises(DiptychError) as caught:
        client.text_to_image(text)
    assert (caught.value.status, bool(caught.value.request_id)) == (503, True)
    return caught.value


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("name", ["encoder", "index"])
def test_a_neighbour_that_cannot_be_understood(
    stack: Stack, client: Client, proxies: dict[str, Proxy], name: str, kind: Fault
) -> None:
    text = f"asked while the {name} is {kind}"
    known = client.text_to_image(f"known before: {text}")
    with fault(proxies[name], kind):
        seconds, error = timed(lambda: refusal(client, text))
        assert seconds < 2 * PATIENCE + AT_ONCE
        assert f"the {name}" in error.detail or proxies[name].url in error.detail
        wait_for(lambda: not client.ready().ready, "the gateway to say so")
        assert all(proxies[name].url in problem for problem in client.ready().problems)
        assert httpx.get(f"{stack.url('gateway')}/health/live").status_code == 200
        assert same(client.text_to_image(f"known before: {text}").results, known.results)
    wait_for(lambda: works(client, text), "searches to be answered again")
    found = client.text_to_image(text)
    with Redis.from_url(stack.redis_url) as redis:
        redis.flushall()
    again = client.text_to_image(text)
    assert (again.cached, same(again.results, found.results)) == (False, True)


@pytest.mark.parametrize("name", ["encoder", "index", "redis"])
def test_a_slow_neighbour_makes_answers_late_and_not_wrong(
    client: Client, proxies: dict[str, Proxy], name: str
) -> None:
    expected = client.text_to_image("asked quickly", k=7)
    with Redis(port=proxies["redis"].target) as redis:
        redis.flushall()
    with fault(proxies[name], "slow"):
        seconds, answer = timed(lambda: client.text_to_image("asked quickly", k=7))
        assert 0.5 <= seconds < 3 * PATIENCE
        assert same(answer.results, expected.results)
        assert client.ready().ready


def test_a_reranker_that_hangs_costs_the_reranking_and_soon_no_time(client: Client, proxies: dict[str, Proxy]) -> None:
    text = "its embedding is known"
    plain, best = client.text_to_image(text, k=15), client.text_to_image(text, k=15, model_type="cross")
    answers: list[TextToImageResponse] = []
    waits: list[float] = []
    with fault(proxies["encoder"], "silent"):
        for k in range(1, 11):
            seconds, answer = timed(lambda k=k: client.text_to_image(text, k=k, model_type="cross"))  # type: ignore[misc]
            answers.append(answer)
            waits.append(seconds)
    assert max(waits) < PATIENCE + AT_ONCE
    assert sum(seconds > AT_ONCE for seconds in waits) <= 5  # three, and who tries again
    assert all(answer.degraded and answer.model_type == "dual" for answer in answers)
    assert all(same(answer.results, plain.results[:k]) for k, answer in enumerate(answers, 1))
    wait_for(lambda: works(client, text), "the reranker to be back")
    for k in range(1, 11):
        again = client.text_to_image(text, k=k, model_type="cross")
        assert (again.degraded, again.cached, same(again.results, best.results[:k])) == (False, False, True)


@pytest.mark.parametrize("name", ["encoder", "index"])
def test_a_paused_neighbour_does_not_hold_the_gateway(stack: Stack, client: Client, name: str) -> None:
    known = f"known before the {name} was paused"
    client.text_to_image(known)
    stack.pause(name)
    try:
        with ThreadPoolExecutor(3 * SLOTS) as pool:
            # Every slot is taken; who comes after is refused at once.
            first = list(pool.map(lambda n: timed(lambda: refusal(client, f"{name} {n}")), range(3 * SLOTS)))
        assert max(seconds for seconds, _ in first) < PATIENCE + 3 * AT_ONCE
        assert any(error.title == "Too many requests are waiting" for _, error in first)
        # From now on nobody waits but one who tries, so that there is room for what can be answered.
        with ThreadPoolExecutor(SLOTS // 2) as pool:
            later = list(pool.map(lambda n: timed(lambda: refusal(client, f"{name} again {n}")), range(5 * SLOTS)))
            answered, answer = timed(lambda: client.text_to_image(known))
        assert sum(seconds > AT_ONCE for seconds, _ in later) <= SLOTS // 2
        assert any("left alone for a moment" in error.detail for _, error in later)
        assert (answer.cached, answered < AT_ONCE) == (True, True)
        assert [problem for problem in client.ready().problems if "did not answer within" in problem]
    finally:
        stack.resume(name)


@pytest.mark.parametrize("kind", FAULTS)
def test_answers_go_on_without_redis(stack: Stack, client: Client, proxies: dict[str, Proxy], kind: Fault) -> None:
    text = f"asked while redis is {kind}"
    expected = client.text_to_image(text, model_type="cross")
    with fault(proxies["redis"], kind):
        for _ in range(3):
            seconds, answer = timed(lambda: client.text_to_image(text, model_type="cross"))
            assert seconds < 2 * PATIENCE
            assert (answer.degraded, same(answer.results, expected.results)) == (False, True)
        assert client.ready().ready
    wait_for(lambda: client.text_to_image(text, model_type="cross").cached, "answers to be cached again")
    assert same(client.text_to_image(text, model_type="cross").results, expected.results)


def test_a_full_redis_stores_nothing_and_costs_nothing(stack: Stack, client: Client, http: httpx.Client) -> None:
    with Redis.from_url(stack.redis_url) as redis:
        redis.flushall()
        before = redis.config_get("maxmemory")["maxmemory"]
        redis.config_set("maxmemory", 1)
        try:
            answers = [client.text_to_image("asked while redis is full", model_type="cross") for _ in range(2)]
            assert [answer.cached for answer in answers] == [False, False]
            assert client.ready().ready
            assert 'diptych_gateway_neighbour_up{neighbour="redis"} 1.0' in http.get("/metrics").text
        finally:
            redis.config_set("maxmemory", before)
    client.text_to_image("asked when there is room again")
    assert client.text_to_image("asked when there is room again").cached
