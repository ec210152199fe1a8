"""The load generator against a real server of its own."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.load import LoadGenerator, Plan, refusal_fault
from benchmarks.questions import EmbedText, ImageToText, InTurn, Questions, Request, TextToImage, caption

_PROBLEM = {"type": "t", "title": "t", "status": 503, "detail": "d"}


@dataclass(frozen=True)
class Ask:
    path: str = "/slow"

    def __call__(self, number: int) -> Request:
        return Request(self.path, str(number).encode(), "text/plain")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append(body)  # type: ignore[attr-defined]
        headers = {"Content-Type": "application/problem+json", "Retry-After": "1"}
        status = 200
        if self.path == "/slow":
            time.sleep(0.02)
        elif self.path == "/refuses":
            status = 503
        elif self.path == "/refuses-badly":
            status, headers = 503, {"Content-Type": "text/html"}
        elif self.path == "/degraded":
            headers["X-Diptych-Degraded"] = "neighbour-unavailable"
        elif self.path == "/breaks":
            status = 500
        elif self.path == "/hangs":
            time.sleep(1)
        self.send_response(status)
        data = json.dumps(_PROBLEM).encode()
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(BrokenPipeError):  # whoever asked has gone
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.seen = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def load() -> Iterator[LoadGenerator]:
    with LoadGenerator() as generator:
        yield generator


def _plan(server: ThreadingHTTPServer, questions: Questions, **more: float) -> Plan:
    url = f"http://127.0.0.1:{server.server_port}"
    return Plan(url, questions, **{"seconds": 0.5, "warm_up": 0.1, **more})  # type: ignore[arg-type]


def test_callers_wait_for_their_answers_and_never_ask_the_same(
    server: ThreadingHTTPServer, load: LoadGenerator
) -> None:
    server.seen.clear()  # type: ignore[attr-defined]
    outcome = load.run(_plan(server, Ask(), concurrency=4))
    figures = outcome.figures()
    # Four callers of 20 ms each make at most 200 a second; a slow machine makes fewer.
    assert 20 < outcome.throughput <= 205
    assert figures["p50_ms"] >= 20
    assert not outcome.failures
    assert sum(outcome.second.values()) == len(outcome.latencies)
    load.run(_plan(server, Ask()))
    seen = server.seen  # type: ignore[attr-defined]
    assert len(seen) == len(set(seen)) > 10


def test_what_a_cache_shall_know_is_asked_first(server: ThreadingHTTPServer, load: LoadGenerator) -> None:
    server.seen.clear()  # type: ignore[attr-defined]
    outcome = load.run(_plan(server, Ask(), prime=40, seconds=0.05, warm_up=0))
    assert len(server.seen) >= 40  # type: ignore[attr-defined]
    assert len(outcome.latencies) <= 3


def test_an_open_loop_does_not_wait(server: ThreadingHTTPServer, load: LoadGenerator) -> None:
    outcome = load.run(_plan(server, Ask("/hangs"), rate=100, timeout=5))
    assert outcome.sent > 25  # a closed loop of one caller would have asked once
    assert not outcome.latencies


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("/refuses-badly", "refused as text/html"),
        ("/degraded", "degraded: neighbour-unavailable"),
        ("/breaks", "status 500"),
        ("/hangs", "no answer within 0.2 s"),
    ],
)
def test_what_is_no_good_answer_is_told_apart(
    server: ThreadingHTTPServer, load: LoadGenerator, path: str, fault: str
) -> None:
    outcome = load.run(_plan(server, Ask(path), timeout=0.2))
    assert outcome.failures.keys() == {fault}
    assert not outcome.latencies


def test_a_refusal_as_it_should_be_is_no_failure(server: ThreadingHTTPServer, load: LoadGenerator) -> None:
    outcome = load.run(_plan(server, Ask("/refuses")))
    assert outcome.refused > 0
    assert not outcome.failures
    assert outcome.throughput == 0


@pytest.mark.parametrize(
    ("media_type", "retry_after", "body", "fault"),
    [
        ("application/problem+json", "1", json.dumps(_PROBLEM), None),
        ("application/json", "1", json.dumps(_PROBLEM), "refused as application/json"),
        ("application/problem+json", None, json.dumps(_PROBLEM), "refused without Retry-After"),
        ("application/problem+json", "1", "<html>", "refused with a body that is not JSON"),
        ("application/problem+json", "1", "{}", "refused without a problem's fields"),
    ],
)
def test_what_a_refusal_lacks(media_type: str, retry_after: str | None, body: str, fault: str | None) -> None:
    assert refusal_fault(media_type, retry_after, body.encode()) == fault


def test_questions_are_the_same_by_number_and_new_by_another() -> None:
    assert caption(7) == caption(7)
    assert len({caption(n) for n in range(5000)}) > 4990
    assert TextToImage("dual")(1) != TextToImage("dual")(2)
    assert TextToImage("dual", different=10)(1) == TextToImage("dual", different=10)(11)
    fresh, again = ImageToText((b"photo",), "dual"), ImageToText((b"photo",), "dual", fresh=False)
    assert fresh(1) != fresh(2)
    assert again(1) == again(2)
    turn = InTurn((EmbedText(), TextToImage("cross")))
    assert [turn(n).path for n in range(3)] == ["/embed/text", "/text-to-image", "/embed/text"]
    assert json.loads(EmbedText(3)(0).body)["texts"] == [caption(n) for n in range(3)]
