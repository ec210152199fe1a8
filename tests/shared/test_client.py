"""The client against servers that misbehave. Against a real gateway it is used throughout tests/e2e."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import diptych
from diptych.ports import free_port
from shared.client import AsyncClient, Client, DiptychError, Term, Upload

MODELS = json.dumps({"current": None, "index": None, "models": [], "indexes": []}).encode()
ANSWER = json.dumps(
    {"query": "a", "results": [], "model_type": "dual", "model_version": "m/1", "index_version": "i/1"}
).encode()


def problem(status: int, title: str, detail: str) -> bytes:
    return json.dumps({"type": "urn:x", "title": title, "status": status, "detail": detail}).encode()


class Script:
    """Answers requests one after the other as told: (status, body, headers), or None to hang up without an answer."""

    def __init__(self, *answers: tuple[int, bytes, dict[str, str]] | None) -> None:
        self.answers = list(answers)
        self.heard: list[tuple[str, bytes]] = []
        self.keys: list[str | None] = []

    def handler(self) -> type[BaseHTTPRequestHandler]:
        script = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                script.heard.append((f"{self.command} {self.path}", body))
                script.keys.append(self.headers.get("Authorization"))
                answer = script.answers.pop(0)
                if answer is None:
                    return
                status, content, headers = answer
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET  # noqa: N815  (http.server's name)

            def log_message(self, *_: object) -> None: ...

        return Handler


@contextmanager
def serving(script: Script) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), script.handler()) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def error_of(script: Script, ask: Callable[[Client], object], **options: float) -> DiptychError:
    with serving(script) as url, Client(url, **{"retries": 0, **options}) as client:  # type: ignore[arg-type]
        with pytest.raises(DiptychError) as caught:
            ask(client)
        return caught.value


def test_the_package_offers_the_client() -> None:
    assert diptych.Client is Client
    assert diptych.AsyncClient is AsyncClient
    assert diptych.DiptychError is DiptychError
    with pytest.raises(AttributeError, match="Nothing"):
        _ = diptych.Nothing


def test_a_gateway_that_is_not_there() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with Client(url, retries=1) as client, pytest.raises(DiptychError, match="Connection refused") as caught:
        client.text_to_image("a dog")
    assert caught.value.status is None
    assert url in caught.value.detail
    assert "diptych up" in caught.value.detail


async def test_a_gateway_that_is_not_there_asynchronously() -> None:
    async with AsyncClient(f"http://127.0.0.1:{free_port()}", retries=1) as client:
        with pytest.raises(DiptychError, match="diptych up"):
            await client.image_to_text(b"picture")


@pytest.mark.parametrize("url", ["localhost:8000", "", "ftp://localhost"])
def test_an_address_that_is_none(url: str) -> None:
    with Client(url, retries=0) as client, pytest.raises(DiptychError, match="right address"):
        client.models()


def test_a_problem_becomes_an_error_with_all_it_says() -> None:
    document = problem(422, "The request is not valid", "k must be at least 1, not 0")
    error = error_of(Script((422, document, {"X-Request-ID": "abc"})), lambda client: client.text_to_image("a", k=0))
    assert (error.status, error.title, error.detail, error.request_id) == (
        422,
        "The request is not valid",
        "k must be at least 1, not 0",
        "abc",
    )
    assert str(error) == "The request is not valid: k must be at least 1, not 0"


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, b"<html>hello"), (200, b"{}"), (404, b"<html>"), (500, b"[]"), (502, b""), (301, b"")],
)
def test_what_is_no_gateway_is_called_so(status: int, body: bytes) -> None:
    error = error_of(Script((status, body, {})), lambda client: client.models())
    assert error.status == status
    assert error.title == "Not an answer of Diptych"


def test_a_missing_file_is_python_s_own_error(tmp_path: Path) -> None:
    with Client("http://127.0.0.1:1") as client, pytest.raises(FileNotFoundError):
        client.image_to_text(tmp_path / "missing.jpg")


def test_not_ready_is_an_answer() -> None:
    body = json.dumps({"ready": False, "problems": ["the encoder is away"]}).encode()
    script = Script((503, body, {"Retry-After": "1"}))
    with serving(script) as url, Client(url) as client:
        assert client.ready().problems == ["the encoder is away"]


BUSY = (503, problem(503, "Too many requests are waiting", "ask again"), {"Retry-After": "0"})
BROKEN: tuple[int, bytes, dict[str, str]] = (503, problem(503, "A service is not answering", "look at its log"), {})


def test_a_busy_gateway_and_a_broken_connection_are_asked_again() -> None:
    script = Script(None, BUSY, (200, ANSWER, {}))
    with serving(script) as url, Client(url, retries=2) as client:
        assert client.text_to_image("a").model_version == "m/1"
    assert len(script.heard) == 3
    assert all(b'name="text"\r\n\r\na\r\n' in body for _, body in script.heard)


async def test_asked_again_asynchronously() -> None:
    script = Script(None, BUSY, (200, MODELS, {}))
    with serving(script) as url:
        async with AsyncClient(url, retries=2) as client:
            assert (await client.models()).models == []
    assert [line for line, _ in script.heard] == ["GET /models"] * 3


def test_it_gives_up_after_so_many_times() -> None:
    error = error_of(Script(BUSY, BUSY), lambda client: client.text_to_image("a"), retries=1)
    assert (error.status, error.detail) == (503, "ask again")


def test_a_503_that_names_no_time_is_final() -> None:
    script = Script(BROKEN)
    assert error_of(script, lambda client: client.models(), retries=5).detail == "look at its log"
    assert len(script.heard) == 1


def test_a_time_out_is_final() -> None:
    release = threading.Event()

    class Slow(Script):
        def handler(self) -> type[BaseHTTPRequestHandler]:
            answering = super().handler()

            class Handler(answering):  # type: ignore[misc, valid-type]
                def do_POST(self) -> None:  # noqa: N802
                    release.wait(30)
                    super().do_POST()

            return Handler

    script = Slow((200, ANSWER, {}))
    with serving(script) as url, Client(url, timeout=0.2, retries=5) as client:
        with pytest.raises(DiptychError, match="too long") as caught:
            client.text_to_image("a")
        release.set()
    assert caught.value.status is None
    assert len(script.heard) <= 1


def test_ids_cannot_leave_their_place_in_the_path() -> None:
    script = Script((200, b"x", {}), (200, b"x", {}))
    with serving(script) as url, Client(url) as client:
        client.image("../models?x=1")
        client.thumbnail("a b", 128)
    assert [line for line, _ in script.heard] == [
        "GET /images/..%2Fmodels%3Fx%3D1",
        "GET /images/a%20b/thumbnail?size=128",
    ]


async def test_the_key_goes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(*[(200, MODELS, {})] * 5)
    with serving(script) as url:
        Client(url).models()
        monkeypatch.setenv("DIPTYCH_API_KEY", "dk_environment\n")
        Client(url).models()
        Client(url, api_key="dk_given").models()
        Client(url, api_key="").models()
        async with AsyncClient(url, api_key="dk_given") as client:
            await client.models()
    assert script.keys == [None, "Bearer dk_environment", "Bearer dk_given", None, "Bearer dk_given"]


@pytest.mark.parametrize("key", ["dk_ one", "dk_\x00", "dk_ключ"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(DiptychError, match="DIPTYCH_API_KEY") as caught:
        Client(api_key=key)
    assert "dk_" not in str(caught.value)


@pytest.mark.parametrize(("seconds", "asked"), [("1", 2), ("30", 1)])
def test_a_caller_who_is_too_hasty_waits_when_it_is_short(seconds: str, asked: int) -> None:
    script = Script(
        (429, problem(429, "The caller asks too often", "ask again"), {"Retry-After": seconds}), (200, MODELS, {})
    )
    with serving(script) as url, Client(url, retries=1) as client:
        if asked == 1:
            with pytest.raises(DiptychError, match="asks too often"):
                client.models()
        else:
            client.models()
    assert len(script.heard) == asked


def bulk_line(number: int, status: str = "created") -> bytes:
    return json.dumps({"line": number, "status": status, "id": f"p{number}"}).encode() + b"\n"


def test_a_bulk_upload_that_was_cut_off_goes_on_with_what_is_missing() -> None:
    script = Script(
        None,
        BUSY,
        (200, bulk_line(2), {"Content-Type": "application/x-ndjson"}),
        (200, bulk_line(2, "unchanged") + bulk_line(1), {}),
    )
    uploads = [Upload(b"one", "p1"), Upload(b"two", "p2"), Upload(b"three", "p3")]
    with serving(script) as url, Client(url, retries=3) as client:
        results = list(client.put_images(uploads))
    assert sorted((one.line, one.status) for one in results) == [(1, "created"), (2, "created"), (3, "unchanged")]
    sent = [[json.loads(line)["id"] for line in body.splitlines()] for _, body in script.heard]
    assert sent == [["p1", "p2", "p3"]] * 3 + [["p1", "p3"]]


async def test_a_bulk_upload_gives_up_in_the_end() -> None:
    script = Script(BROKEN, (200, b"<html>", {}), (200, b"", {}), (200, b"", {}))
    with serving(script) as url:
        async with AsyncClient(url, retries=1) as client:
            for says in ("look at its log", "Not an answer of Diptych", "1 photos missing"):
                with pytest.raises(DiptychError, match=says):
                    _ = [one async for one in client.put_images([Upload(b"one", "p1")])]


def test_the_client_says_what_a_search_asks(tmp_path: Path) -> None:
    found: dict[str, object] = {"calibrated": False, "next_offset": None, "results": [], "model_type": "dual"}
    answer = json.dumps({**found, "model_version": "m/1", "index_version": "i/1"}).encode()
    script = Script((200, answer, {}))
    path = tmp_path / "a.png"
    path.write_bytes(b"bytes")
    with serving(script) as url, Client(url) as client:
        client.search("a dog", path, Term(id="x", weight=-0.5), k=3, tags=["t"], min_similarity=0.1)
    ((line, body),) = script.heard
    assert line == "POST /v1/search"
    assert json.loads(body)["query"] == [
        {"text": "a dog", "weight": 1.0},
        {"image": "Ynl0ZXM=", "weight": 1.0},
        {"id": "x", "weight": -0.5},
    ]
    assert json.loads(body)["k"] == 3
