"""Keys and the internal token between real services, and that neither is written down anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from diptych import keyring
from shared.client import Client, DiptychError
from shared.http import INTERNAL_HEADER
from shared.keys import sha256
from tests.support.stack import Stack
from tests.support.store import Prepared

TOKEN = "internal-token-that-nobody-may-read"
WRONG_KEY, WRONG_TOKEN = "dk_a-key-that-is-wrong", "a-token-that-is-wrong"


@dataclass(frozen=True)
class Guarded:
    stack: Stack
    key: str

    @property
    def url(self) -> str:
        return self.stack.url("gateway")


@pytest.fixture(scope="module")
def guarded(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    key = keyring.create(folder / "keys.json", "reader", ["read"])
    settings = {
        "DIPTYCH_INTERNAL_TOKEN": TOKEN,
        "DIPTYCH_GATEWAY_API_KEYS": str(folder / "keys.json"),
        "DIPTYCH_LOG_LEVEL": "debug",
    }
    with Stack(folder / "stack", prepared.store.root, settings) as stack:
        yield Guarded(stack, key)


def refused(ask: Callable[[], object]) -> bool:
    with pytest.raises(DiptychError) as caught:
        ask()
    return caught.value.status == 401


def test_with_the_key_everything_works_and_without_it_nothing(guarded: Guarded, photo: Path) -> None:
    with Client(guarded.url, api_key=guarded.key) as client:
        found = client.text_to_image("a red circle", k=3, model_type="cross")
        assert (len(found.results), found.degraded) == (3, False)
        assert client.image_to_text(photo, k=3).results
        assert client.thumbnail(found.results[0].image_id)
        assert client.models().current == found.model_version
    for key in ("", WRONG_KEY):
        with Client(guarded.url, api_key=key) as client:
            assert refused(client.models)
            assert refused(lambda client=client: client.text_to_image("a red circle"))  # type: ignore[misc]
            assert refused(lambda client=client: client.image(found.results[0].image_id))  # type: ignore[misc]
            assert client.ready().ready


def test_the_neighbours_answer_only_the_gateway(guarded: Guarded) -> None:
    for name, path in (("encoder", "/embed/text"), ("encoder", "/status"), ("index", "/status"), ("index", "/search")):
        for headers in ({}, {INTERNAL_HEADER: WRONG_TOKEN}, {"Authorization": f"Bearer {guarded.key}"}):
            answer = httpx.get(guarded.stack.url(name) + path, headers=headers)
            assert (answer.status_code, answer.json()["type"]) == (401, "urn:diptych:problem:unauthenticated")
        assert httpx.get(guarded.stack.url(name) + "/metrics").status_code == 200


def test_the_command_line_takes_the_key_from_the_environment(guarded: Guarded) -> None:
    command = [sys.executable, "-m", "diptych", "search", "text", "a red circle", "--json", "--gateway", guarded.url]
    environment = {**os.environ, "DIPTYCH_API_KEY": guarded.key}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert len(json.loads(result.stdout)["results"]) == 5


def test_a_token_that_differs_shows_in_readiness(guarded: Guarded, prepared: Prepared, tmp_path: Path) -> None:
    neighbours = {f"DIPTYCH_GATEWAY_{name.upper()}_URL": guarded.stack.url(name) for name in ("encoder", "index")}
    other = Stack(tmp_path, prepared.store.root, {"DIPTYCH_INTERNAL_TOKEN": WRONG_TOKEN, **neighbours})
    other.start("gateway")
    try:
        with Client(other.url("gateway"), retries=100) as client:
            problems = client.ready().problems
    finally:
        other.stop()
    for name, said in zip(("encoder", "index"), problems, strict=True):
        assert said.startswith(f"the {name} at {guarded.stack.url(name)} does not know this gateway")
        assert "correct DIPTYCH_INTERNAL_TOKEN" in said
    assert WRONG_TOKEN not in other.log("gateway")


def test_neither_is_written_down(guarded: Guarded) -> None:
    with Client(guarded.url, api_key=guarded.key) as client:
        client.text_to_image("good")
    with Client(guarded.url, api_key=WRONG_KEY) as client:
        assert refused(lambda: client.text_to_image("refused"))
    httpx.post(f"{guarded.stack.url('encoder')}/embed/text", json={}, headers={INTERNAL_HEADER: WRONG_TOKEN})
    httpx.post(f"{guarded.stack.url('encoder')}/embed/text", json={}, headers={INTERNAL_HEADER: TOKEN})
    written = {name: guarded.stack.log(name) for name in ("encoder", "index", "gateway")}
    assert '"status": 401' in written["gateway"]
    assert '"caller": "reader"' in written["gateway"]
    assert all(f'"status": {status}' in written["encoder"] for status in (200, 401, 422))
    for secret in (TOKEN, WRONG_TOKEN, guarded.key, WRONG_KEY, sha256(guarded.key)):
        assert not [name for name, log in written.items() if secret in log]
