"""Two real encoders behind one gateway: one is killed, one dawdles, one has another version."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest

from shared.client import Client
from tests.support.load import Load
from tests.support.proxy import Proxy
from tests.support.stack import Stack
from tests.support.store import MODELS, Prepared
from tests.support.waiting import wait_for


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with Proxy() as proxy:
        yield proxy


@pytest.fixture(scope="module")
def stack(proxy: Proxy, prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The second encoder is behind the proxy."""
    stack = Stack(tmp_path_factory.mktemp("replicas"), prepared.store.root, encoders=2)
    proxy.target = stack.port("encoder2")
    stack.set("DIPTYCH_GATEWAY_ENCODER_URL", f"{stack.url('encoder')}, {proxy.url}")
    with stack:
        yield stack


def metric(stack: Stack, name: str, url: str) -> float:
    """A metric of one replica, or 0 before it is first counted."""
    wanted = f'diptych_gateway_encoder_{name}{{replica="{url}"}} '
    lines = httpx.get(f"{stack.url('gateway')}/metrics", timeout=30).text.splitlines()
    return next((float(line.removeprefix(wanted)) for line in lines if line.startswith(wanted)), 0.0)


def answered(stack: Stack, url: str) -> float:
    return metric(stack, "seconds_count", url)


def wait_until_asked(stack: Stack, url: str) -> None:
    before = answered(stack, url)
    wait_for(lambda: answered(stack, url) > before + 5, f"{url} to be asked")


def test_one_that_is_killed_costs_no_request_and_is_asked_again_when_it_is_back(stack: Stack, client: Client) -> None:
    url = stack.url("encoder")
    with Load(stack.url("gateway")) as load:
        wait_until_asked(stack, url)
        stack.kill("encoder")
        wait_for(lambda: metric(stack, "ejected", url) == 1, "it to be put aside")
        load.wait_for_answers(20)
        assert client.ready().ready
        stack.restart("encoder")
        wait_for(lambda: metric(stack, "ejected", url) == 0, "it to be let in again")
        wait_until_asked(stack, url)
    assert not load.failures
    assert not any(answer.degraded for answer in load.answers)


def test_one_that_is_silent_costs_no_request(stack: Stack, proxy: Proxy) -> None:
    with Load(stack.url("gateway")) as load:
        wait_until_asked(stack, proxy.url)
        proxy.fault = "silent"
        try:
            wait_for(lambda: metric(stack, "ejected", proxy.url) == 1, "it to be put aside")
            load.wait_for_answers(20)
        finally:
            proxy.fault = "none"
        wait_for(lambda: metric(stack, "ejected", proxy.url) == 0, "it to be let in again")
    assert not load.failures


def test_one_that_dawdles_is_put_aside(stack: Stack, proxy: Proxy) -> None:
    with Load(stack.url("gateway")) as load:
        wait_until_asked(stack, proxy.url)
        proxy.fault = "slow"
        try:
            wait_for(lambda: "slow encoder put aside" in stack.log("gateway"), "it to be put aside")
            assert metric(stack, "ejected", proxy.url) == 1
            wait_for(lambda: metric(stack, "outstanding", proxy.url) == 0, "what it was asked before")
            before = answered(stack, proxy.url)
            load.wait_for_answers(20)
            assert answered(stack, proxy.url) == before
        finally:
            proxy.fault = "none"
    assert not load.failures


def test_a_new_version_that_one_has_before_the_other_costs_no_request(
    stack: Stack, client: Client, proxy: Proxy, prepared: Prepared
) -> None:
    """The second encoder is stopped while the store changes, and goes on with the old version some seconds later."""
    with Load(stack.url("gateway")) as load:
        load.wait_for_answers()
        stack.pause("encoder2")
        try:
            prepared.store.activate(MODELS[1], prepared.indexes[1])
            wait_for(lambda: client.models().current == "tiny/2", "the new version to answer")
            load.wait_for_answers()
        finally:
            stack.resume("encoder2")
        time.sleep(1)
        load.wait_for_answers()
        prepared.store.rollback()
        wait_for(lambda: client.models().current == "tiny/1", "the old version to answer")
        load.wait_for_answers()
    assert not load.failures
    assert {(one.model_version, one.index_version) for one in load.answers} == {
        ("tiny/1", "photos/1"),
        ("tiny/2", "photos/2"),
    }
    assert not any(one.degraded for one in load.answers)
