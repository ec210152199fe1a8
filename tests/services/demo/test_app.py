"""The service with no gateway behind it: it comes up, and it is the page that says what is missing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from diptych.ports import free_port
from services.demo.search import Picture, Search, Wanted
from services.demo.thumbnails import Thumbnails
from shared.client import AsyncClient
from tests.support.demo import demo as running_demo

GATEWAY_PORT = free_port()


@pytest.fixture(scope="module")
def demo() -> Iterator[httpx.Client]:
    nobody = f"http://127.0.0.1:{GATEWAY_PORT}"
    with (
        running_demo(nobody, max_upload_bytes="1000", examples='["a fox"]', api_key="dk_demo") as url,
        httpx.Client(base_url=url, trust_env=False) as client,
    ):
        yield client


def test_it_is_live_and_ready_without_a_gateway(demo: httpx.Client) -> None:
    assert demo.get("/health/live").json() == {"status": "live"}
    assert demo.get("/health/ready").json() == {"ready": True, "problems": []}


def test_metrics(demo: httpx.Client) -> None:
    demo.get("/health/live")
    assert 'diptych_http_requests_total{method="GET",route="/health/live",service="demo"' in demo.get("/metrics").text


def test_the_page_offers_the_examples_and_calls_no_other_place(demo: httpx.Client) -> None:
    page = demo.get("/")
    assert page.status_code == 200
    assert "Diptych" in page.text
    assert "a fox" in page.text
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    theme = demo.get("/theme.css")
    assert theme.status_code == 200
    assert "googleapis" not in theme.text
    assert "url(http" not in theme.text
    assert demo.get("/config").json()["analytics_enabled"] is False


def test_a_browser_gets_the_page_in_its_language_and_may_choose_another(demo: httpx.Client) -> None:
    def asked(path: str, language: str) -> httpx.Response:
        return demo.get(path, headers={"Accept-Language": language})

    sent = asked("/?q=a+fox", "zh-TW,zh;q=0.9,en;q=0.8")
    assert (sent.status_code, sent.headers["Location"]) == (307, "/zh/?q=a+fox")
    chinese = asked(sent.headers["Location"], "zh-TW")
    assert chinese.status_code == 200
    assert "以文搜图" in chinese.text
    for path, language in (("/", "en-GB,zh;q=0.5"), ("/?language=en", "zh-CN")):
        english = asked(path, language)
        assert english.status_code == 200
        assert "Find pictures by words" in english.text


def test_an_upload_over_the_limit_is_refused(demo: httpx.Client) -> None:
    answer = demo.post("/gradio_api/upload", files={"files": ("a.jpg", b"\0" * 200_000)})
    assert answer.status_code == 413


def test_no_actions_are_offered_as_an_interface_for_programs(demo: httpx.Client) -> None:
    assert demo.get("/gradio_api/info").json()["named_endpoints"] == {}


async def test_a_gateway_that_is_away_is_a_sentence_and_not_an_error(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    async with AsyncClient(url, retries=0) as client:
        search = Search(client, Thumbnails(client, tmp_path))
        (found,) = await search.pictures(Wanted("a fox", "both", 3))
        assert found.pictures == []
        assert "The gateway cannot be reached" in found.line
        assert url in found.line
        *_, (done, added) = [one async for one in search.add([__file__], "", "")]
        assert done == 1
        assert "The gateway cannot be reached" in added
        fox = Picture("cafe", "fox.jpg", Path(__file__), "")
        assert "The gateway cannot be reached" in (await search.more_like(fox, 3)).line
        assert "The gateway cannot be reached" in await search.captions_of(fox)
        assert "The gateway cannot be reached" in (await search.seen("a fox", fox))[1]
        captions, line = await search.captions(__file__, "dual", 3, False)
        assert captions == ""
        assert "The gateway cannot be reached" in line
        assert "The gateway cannot be reached" in await search.collection()
        assert await search.samples(["a fox"]) == []


async def test_nothing_to_ask_with_is_a_hint(tmp_path: Path) -> None:
    async with AsyncClient(f"http://127.0.0.1:{free_port()}", retries=0) as client:
        search = Search(client, Thumbnails(client, tmp_path))
        assert "Type what" in (await search.pictures(Wanted("  ")))[0].line
        fox = Picture("cafe", "fox.jpg", tmp_path, "")
        assert "Search with words first" in (await search.seen(" ", fox))[1]
        assert "Drop, paste or take" in (await search.captions(None, "dual", 3, True))[1]


def test_it_asks_with_its_key_and_shows_it_to_nobody(demo: httpx.Client) -> None:
    shown: list[str | None] = []

    class Gateway(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            shown.append(self.headers.get("Authorization"))
            self.send_error(401)

        def log_message(self, *_: object) -> None: ...

    config = demo.get("/config")
    *_, load = (one["id"] for one in config.json()["dependencies"] if one["targets"][0][1] == "load")
    with ThreadingHTTPServer(("127.0.0.1", GATEWAY_PORT), Gateway) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        demo.post("/gradio_api/queue/join", json={"data": [], "fn_index": load, "session_hash": "test"})
        with demo.stream("GET", "/gradio_api/queue/data", params={"session_hash": "test"}, timeout=60) as events:
            said = "\n".join(events.iter_lines())
        server.shutdown()
        thread.join()
    assert shown == ["Bearer dk_demo"]
    assert "answered 401" in said
    assert "dk_demo" not in said + config.text
