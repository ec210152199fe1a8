"""The gateway with nobody behind it: what it refuses by itself, and how it says that its neighbours are missing."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from httpx import ASGITransport, AsyncClient

from diptych.ports import free_port
from services.gateway.app import create
from services.gateway.settings import GatewaySettings
from shared.problems import MEDIA_TYPE

NOBODY = f"http://127.0.0.1:{free_port()}"
TEXT, IMAGE = "/text-to-image", "/image-to-text"
LIMIT = 100_000


def settings(**changes: Any) -> GatewaySettings:
    return GatewaySettings(encoder_url=NOBODY, index_url=NOBODY, max_upload_bytes=LIMIT, **changes)


@pytest.fixture(scope="module")
def gateway() -> Iterator[TestClient]:
    with TestClient(create(settings()), raise_server_exceptions=False) as client:
        yield client


def fields(**values: str) -> dict[str, Any]:
    """A multipart form without files."""
    return {"files": {name: (None, value) for name, value in values.items()}}


def multipart(head: str, body: bytes, content_type: str = "multipart/form-data; boundary=xXx") -> dict[str, Any]:
    content = b"--xXx\r\n" + head.encode() + b"\r\n\r\n" + body + b"\r\n--xXx--\r\n"
    return {"content": content, "headers": {"Content-Type": content_type}}


BAD: list[tuple[str, dict[str, Any], int, str]] = [
    (TEXT, {}, 422, "text: Field required"),
    (TEXT, {"json": {"text": "a dog"}}, 422, "text: Field required"),
    (TEXT, fields(k="3"), 422, "text: Field required"),
    (TEXT, fields(text=""), 422, "text"),
    (TEXT, fields(text=" \t\n "), 422, "text is blank"),
    (TEXT, fields(text="x" * 10_001), 422, "(10,001 characters)"),
    (TEXT, fields(text="x" * 2_000_000), 413, "over the limit"),
    (TEXT, {"files": {"text": ("a.txt", b"a dog")}}, 422, "text: Input should be a valid string"),
    (TEXT, fields(text="a dog", k="0"), 422, "'0'"),
    (TEXT, fields(text="a dog", k="-1"), 422, "'-1'"),
    (TEXT, fields(text="a dog", k="1000000000"), 422, "'1000000000'"),
    (TEXT, fields(text="a dog", k="1.5"), 422, "'1.5'"),
    (TEXT, fields(text="a dog", k="nan"), 422, "'nan'"),
    (TEXT, fields(text="a dog", k="inf"), 422, "'inf'"),
    (TEXT, fields(text="a dog", k="five"), 422, "'five'"),
    (TEXT, fields(text="a dog", k="9" * 6000), 422, "(6,000 characters)"),
    (TEXT, fields(text="a dog", model_type="blip"), 422, "'dual' or 'cross', not 'blip'"),
    (TEXT, fields(text="a dog", k="0", model_type="blip"), 422, "; "),
    *(
        (TEXT, fields(text="a dog", min_score=bad), 422, f"'{bad}'")
        for bad in ("nan", "inf", "-0.01", "1.01", "likely")
    ),
    (TEXT, fields(text="a dog", cutoff="magic"), 422, "'none' or 'auto', not 'magic'"),
    (TEXT, fields(text="a dog", filter="year"), 422, "filter: 'year' is not JSON"),
    (TEXT, fields(text="a dog", filter='{"year": {"over": 2020}}'), 422, "filter.year: a range has some of gt,"),
    (TEXT, multipart("Content-Disposition: form-data", b"nameless"), 422, ""),
    (TEXT, multipart(f'Content-Disposition: form-data; name="{"x" * 100_000}"', b"a dog"), 422, ""),
    (TEXT, fields(**{f"field-{n}": "" for n in range(1001)}), 422, "Too many fields"),
    (TEXT, {"data": {f"field-{n}": "" for n in range(5000)}}, 422, ""),
    (IMAGE, {"files": [("image", (f"{n}.jpg", b"x")) for n in range(900)]}, 503, "does not answer"),
    (IMAGE, {"files": [("image", (f"{n}.jpg", b"x")) for n in range(1001)]}, 422, "Too many files"),
    (TEXT, fields(text="a dog", tag="x" * 101), 422, "(101 characters)"),
    (TEXT, {"files": [("text", (None, "a dog"))] + 21 * [("tag", (None, "x"))]}, 422, "tag"),
    (TEXT, {"content": b"garbage", "headers": {"Content-Type": "multipart/form-data; boundary=xXx"}}, 422, ""),
    (TEXT, {"content": b"garbage", "headers": {"Content-Type": "multipart/form-data"}}, 422, "boundary"),
    (IMAGE, {}, 422, "image: Field required"),
    (IMAGE, fields(image="not a file"), 422, "image: a file is needed"),
    (IMAGE, {"files": {"image": ("empty.jpg", b"")}}, 415, "'empty.jpg' is empty"),
    (IMAGE, {"files": {"image": ("large.jpg", b"x" * (LIMIT + 1))}}, 413, "'large.jpg' has 100,001 bytes"),
    (IMAGE, {"files": {"image": ("huge.jpg", b"x" * 50 * LIMIT)}}, 413, "over the limit"),
    (IMAGE, {"files": {"image": ("a.jpg", b"x")}, "data": {"k": "0"}}, 422, "'0'"),
    (IMAGE, {"files": {"image": ("a.jpg", b"x")}, "data": {"min_score": "nan"}}, 422, "min_score"),
    (IMAGE, {"files": {"image": ("a.jpg", b"x")}, "data": {"cutoff": "5"}}, 422, "'5'"),
    (IMAGE, {"files": {"image": ("a.jpg", b"x")}, "data": {"filter": "[]"}}, 422, "filter: '[]' is not an object"),
    (IMAGE, {"files": {"image": ("a.jpg", b"x")}, "data": {"model_type": ""}}, 503, "does not answer"),
]


@pytest.mark.parametrize(("path", "request_", "status", "says"), BAD)
def test_bad_input_gets_a_clear_problem(
    gateway: TestClient, path: str, request_: dict[str, Any], status: int, says: str
) -> None:
    answer = gateway.post(path, **request_)
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == MEDIA_TYPE
    document = answer.json()
    assert document["status"] == status
    assert document["type"].startswith("urn:diptych:problem:")
    assert document["request_id"] == answer.headers["X-Request-ID"]
    assert document["detail"]
    assert says in document["detail"]
    assert len(document["detail"]) < 1000


@pytest.mark.parametrize(
    "request_",
    [
        fields(text="a dog"),
        fields(text="a\0dog", k="5", model_type="cross"),
        {"data": {"text": "a dog"}},
        multipart('Content-Disposition: form-data; name="text"', b"\xff\xfe not utf-8"),
        multipart(
            'Content-Disposition: form-data; name="text"', b"a dog", "multipart/form-data; boundary=xXx; charset=x"
        ),
    ],
)
def test_without_its_neighbours_it_says_which_is_missing_and_when_to_ask_again(
    gateway: TestClient, request_: dict[str, Any]
) -> None:
    answer = gateway.post(TEXT, **request_)
    assert answer.status_code == 503
    assert answer.json()["type"] == "urn:diptych:problem:neighbour-unavailable"
    assert f"the encoder at {NOBODY} does not answer (Connection refused)" in answer.json()["detail"]
    assert answer.headers["Retry-After"] == "1"


def test_it_is_live_but_not_ready(gateway: TestClient) -> None:
    assert gateway.get("/health/live").status_code == 200
    ready = gateway.get("/health/ready")
    assert ready.status_code == 503
    assert [sentence.split(" at ")[0] for sentence in ready.json()["problems"]] == ["the encoder", "the index"]
    assert 'diptych_gateway_neighbour_up{neighbour="encoder"} 0.0' in gateway.get("/metrics").text


def test_it_knows_of_no_models_yet(gateway: TestClient) -> None:
    assert gateway.get("/models").json() == {"current": None, "index": None, "models": [], "indexes": []}


@pytest.mark.parametrize("size", ["300", "0", "-5", "inf", "x"])
def test_thumbnails_come_in_fixed_sizes(gateway: TestClient, size: str) -> None:
    answer = gateway.get("/images/abc/thumbnail", params={"size": size})
    assert answer.status_code == 422
    assert size in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/images/", "/images/%2e%2e/%2e%2e/etc/passwd", "/images/a/b/c", "/nothing"])
def test_unknown_addresses(gateway: TestClient, path: str) -> None:
    answer = gateway.get(path)
    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == MEDIA_TYPE


def test_methods(gateway: TestClient) -> None:
    answer = gateway.get(TEXT)
    assert (answer.status_code, answer.headers["Content-Type"]) == (405, MEDIA_TYPE)


def test_the_front_door_leads_to_the_docs(gateway: TestClient) -> None:
    assert gateway.get("/", follow_redirects=False).headers["Location"] == "/docs"
    assert "Diptych" in gateway.get("/docs").text


def test_the_docs_and_all_they_load_are_served_from_here(gateway: TestClient) -> None:
    page = gateway.get("/docs")
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    assert "//" not in page.text.replace("<!-- ", "").replace("// ", "")
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) == 3
    for address in loaded:
        file = gateway.get(str(page.url.join(address)))
        assert file.status_code == 200
        assert file.headers["Content-Type"].split("/")[0] in {"text", "image"}
        assert len(file.content) > 500
    assert gateway.get("/docs/../pyproject.toml").status_code == 404
    assert gateway.get("/docs/nothing.js").headers["Content-Type"] == MEDIA_TYPE
    assert gateway.get("/redoc").status_code == 404


def test_the_description_has_the_seed_interface_and_its_problems(gateway: TestClient) -> None:
    description = gateway.get("/openapi.json").json()
    forms = description["components"]["schemas"]
    for path, content in ((TEXT, "text"), (IMAGE, "image")):
        operation = description["paths"][path]["post"]
        (media_type,) = operation["requestBody"]["content"]
        assert media_type == "multipart/form-data"
        form = forms[operation["requestBody"]["content"][media_type]["schema"]["$ref"].rpartition("/")[2]]
        assert set(form["properties"]) == {content, "model_type", "k", "min_score", "cutoff", "tag", "filter"}
        assert form["required"] == [content]
        assert form["properties"]["model_type"]["enum"] == ["dual", "cross"]
        assert (form["properties"]["k"]["minimum"], form["properties"]["k"]["maximum"]) == (1, 1000)
        assert operation["summary"]
        assert operation["description"]
        for status in ("413", "422", "503"):
            assert MEDIA_TYPE in operation["responses"][status]["content"]


def test_other_pages_may_call_it_only_when_told_so(gateway: TestClient) -> None:
    asking = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    assert "Access-Control-Allow-Origin" not in gateway.options(TEXT, headers=asking).headers
    assert "Access-Control-Allow-Origin" not in gateway.get("/models", headers=asking).headers
    with TestClient(create(settings(cors_origins=("https://example.org",)))) as open_gateway:
        allowed = open_gateway.options(TEXT, headers=asking)
        assert allowed.headers["Access-Control-Allow-Origin"] == "https://example.org"
        refused = open_gateway.get("/models", headers={"Origin": "https://example.com"})
        assert "Access-Control-Allow-Origin" not in refused.headers


async def test_more_requests_than_it_admits_are_refused_at_once() -> None:
    app = create(settings(max_searches=1))
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slow_body() -> AsyncIterator[bytes]:
        yield b"text=a"
        arrived.set()
        await go_on.wait()
        yield b"+dog"

    form = {"Content-Type": "application/x-www-form-urlencoded"}
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=ASGITransport(app), base_url="http://gateway") as client,
    ):
        first = asyncio.create_task(client.post(TEXT, content=slow_body(), headers=form))
        await arrived.wait()
        refused = await client.post(TEXT, data={"text": "a dog"})
        assert refused.status_code == 503
        assert refused.json()["type"] == "urn:diptych:problem:overloaded"
        assert refused.headers["Retry-After"] == "1"
        assert (await client.get("/health/live")).status_code == 200
        go_on.set()
        assert problem_of(await first) == "neighbour-unavailable"
        assert problem_of(await client.post(TEXT, data={"text": "a dog"})) == "neighbour-unavailable"


def problem_of(answer: httpx.Response) -> str:
    return str(answer.json()["type"]).removeprefix("urn:diptych:problem:")
