"""``/v1`` with nobody behind it: what it refuses by itself, and how it is described."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from diptych.ports import free_port
from services.gateway.app import create
from services.gateway.settings import GatewaySettings
from shared.keys import ApiKey, KeyFile, sha256
from shared.problems import MEDIA_TYPE

NOBODY = f"http://127.0.0.1:{free_port()}"
LIMIT = 100_000
SEARCH, CAPTIONS, EMBEDDINGS, EXPLAIN = "/v1/search", "/v1/captions", "/v1/embeddings", "/v1/explain"
DOG = {"text": "a dog"}


def settings(**changes: Any) -> GatewaySettings:
    return GatewaySettings(encoder_url=NOBODY, index_url=NOBODY, max_upload_bytes=LIMIT, **changes)


@pytest.fixture(scope="module")
def gateway() -> Iterator[TestClient]:
    with TestClient(create(settings()), raise_server_exceptions=False) as client:
        yield client


def query(*terms: Any, **changes: Any) -> str:
    return json.dumps({"query": terms, **changes})


BAD: list[tuple[str, str | bytes, int, str]] = [
    (SEARCH, "", 422, ""),
    (SEARCH, "{", 422, ""),
    (SEARCH, "[" * 100_000, 422, ""),
    (SEARCH, b"\xff\xfe", 422, ""),
    (SEARCH, "[]", 422, ""),
    (SEARCH, "{}", 422, "query: Field required"),
    (SEARCH, query(), 422, "query"),
    (SEARCH, query(*[DOG] * 17), 422, "query"),
    (SEARCH, query({}), 422, "one of text, image and id, not nothing"),
    (SEARCH, query({"text": "a", "id": "b"}), 422, "not text and id"),
    (SEARCH, query({"text": " \t"}), 422, "it is blank"),
    (SEARCH, query({"text": "x" * 10_001}), 422, "(10,001 characters)"),
    (SEARCH, '{"query": [{"text": "\\ud800"}]}', 422, "text"),
    (SEARCH, query({"text": 5}), 422, "text"),
    (SEARCH, query({"image": "?"}), 422, "not base64"),
    (SEARCH, query({"image": ""}), 422, "it is empty"),
    (SEARCH, query({"image": "data:image/png,x"}), 422, ";base64, is needed"),
    (SEARCH, query({"image": "x" * 10 * LIMIT}), 413, "over the limit"),
    (SEARCH, query({**DOG, "weight": 0}), 422, "weight of 0"),
    (SEARCH, query({**DOG, "weight": 11}), 422, "weight"),
    (SEARCH, query({**DOG, "weight": float("nan")}), 422, "weight"),
    (SEARCH, query({**DOG, "weight": -1}), 422, "at least one term needs a weight over 0"),
    (SEARCH, query({**DOG, "wieght": 1}), 422, "wieght"),
    (SEARCH, query({"id": "../models"}), 404, "there is no photo '../models'"),
    (SEARCH, query({"id": "x" * 200}), 422, "id"),
    (SEARCH, query(DOG, k=0), 422, "k: "),
    (SEARCH, query(DOG, k=1001), 422, "past the 1000 best"),
    (SEARCH, query(DOG, k=10, offset=10**30), 422, "offset"),
    (SEARCH, query(DOG, k=10, offset=995), 422, "past the 1000 best"),
    (SEARCH, query(DOG, offset=-1), 422, "offset"),
    (SEARCH, query(DOG, target="videos"), 422, "target"),
    (SEARCH, query(DOG, model_type="blip"), 422, "model_type"),
    (SEARCH, query(DOG, min_score=float("inf")), 422, "min_score"),
    (SEARCH, query(DOG, min_similarity=2), 422, "min_similarity"),
    (SEARCH, query(DOG, DOG, min_score=0.5), 422, "only for one text"),
    (SEARCH, query(DOG, target="captions", cutoff="auto"), 422, "only for one text"),
    (SEARCH, query(DOG, tags=["x"] * 21), 422, "tags"),
    (SEARCH, query(DOG, filter={"year": []}), 422, "filter.year: a list of 0 values"),
    (SEARCH, query(DOG, filter={"a": "x" * 9000}), 422, "filter: "),
    (SEARCH, query(DOG, filter=["year"]), 422, "filter"),
    (SEARCH, query(DOG), 503, "does not answer"),
    (CAPTIONS, "{}", 422, "either image or id"),
    (CAPTIONS, '{"image": "aGVsbG8=", "id": "x"}', 422, "either image or id"),
    (CAPTIONS, '{"image": "aGVsbG8="}', 503, "does not answer"),
    (EMBEDDINGS, '{"input": "a"}', 422, "model: Field required"),
    (EMBEDDINGS, '{"input": "a", "model": "m", "encoding_format": "hex"}', 422, "encoding_format"),
    (EMBEDDINGS, '{"input": [1], "model": "m"}', 422, "token ids"),
    (EMBEDDINGS, '{"input": {"a": 1}, "model": "m"}', 422, "input"),
    (EMBEDDINGS, '{"input": "a", "model": "m"}', 503, "does not answer"),
    (EXPLAIN, '{"text": "a dog", "id": "../x"}', 404, "there is no photo"),
    (EXPLAIN, '{"text": "...", "id": "x"}', 422, "it has 0 words"),
    (EXPLAIN, '{"text": "a dog", "id": "x"}', 503, "does not answer"),
]


@pytest.mark.parametrize(("path", "body", "status", "says"), BAD)
def test_bad_input_gets_a_clear_problem(
    gateway: TestClient, path: str, body: str | bytes, status: int, says: str
) -> None:
    answer = gateway.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text[:500]
    assert answer.headers["Content-Type"] == MEDIA_TYPE
    document = answer.json()
    assert says in document["detail"]
    assert len(document["detail"]) < 1000
    assert document["request_id"] == answer.headers["X-Request-ID"]


def test_only_the_bulk_upload_may_be_long(gateway: TestClient) -> None:
    lines = b"\n".join([b"{}"] * LIMIT)
    answer = gateway.post("/v1/images:bulk", content=lines, headers={"Content-Type": "application/x-ndjson"})
    results = [json.loads(line) for line in answer.text.splitlines()]
    assert len(results) == 10_001
    assert "10,000 lines" in next(one for one in results if one["line"] == 10_001)["problem"]["detail"]
    assert gateway.put("/v1/images:bulk", content=lines).status_code == 413


SCOPES = [
    ("POST", SEARCH, "read"),
    ("POST", CAPTIONS, "read"),
    ("POST", EMBEDDINGS, "read"),
    ("POST", EXPLAIN, "read"),
    ("GET", "/v1/models", "read"),
    ("GET", "/v1/models/x", "read"),
    ("POST", "/v1/images:bulk", "write"),
]


def test_each_route_needs_its_scope(tmp_path: Any) -> None:
    path = tmp_path / "keys.json"
    keys = [ApiKey(name=scope, sha256=sha256(f"dk_{scope}"), scopes=(scope,)) for scope in ("read", "write")]
    path.write_text(KeyFile(keys=tuple(keys)).model_dump_json())
    with TestClient(create(settings(api_keys=path)), raise_server_exceptions=False) as client:
        for method, route, scope in SCOPES:
            assert client.request(method, route).status_code == 401
            for held in ("read", "write"):
                headers = {"Authorization": f"Bearer dk_{held}"}
                status = client.request(method, route, headers=headers).status_code
                assert (status == 403) == (held != scope), (route, held, status)


def test_the_description_shows_examples_and_problems_of_every_route(gateway: TestClient) -> None:
    described = gateway.get("/openapi.json").json()
    assert {path for _, path, _ in SCOPES if "/x" not in path} <= described["paths"].keys()
    for path, operations in described["paths"].items():
        if not path.startswith("/v1/"):
            continue
        for method, operation in operations.items():
            where = f"{method} {path}"
            assert {"401", "403"} <= operation["responses"].keys(), where
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    assert MEDIA_TYPE in response["content"] or status == "422", where
            for kind, body in operation.get("requestBody", {}).get("content", {}).items():
                if "json" in kind:
                    assert body.get("examples") or body.get("example"), where
