"""What the gateway makes of neighbours that fail. How it gets on with those that work is in tests/e2e."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import numpy as np
import pytest
from structlog.contextvars import bound_contextvars

from diptych.ports import free_port
from services.gateway.circuit import FAILURES, PAUSE_SECONDS, Circuit
from services.gateway.encoder import Encoder
from services.gateway.neighbours import Embedding, Index, UnavailableError
from shared import wire
from shared.problems import MEDIA_TYPE, Problem
from shared.schemas import Scoring, ServedModel
from shared.wire import WireError

MODEL = ServedModel(ref="m/1", fingerprint="aaa", embedding_dim=4, token_dim=2, has_reranker=True, scoring=Scoring())


class Failing:
    """A TCP server that answers every request with the same bytes, or with silence, and remembers what it was asked."""

    def __init__(self, answer: bytes | None) -> None:
        self._answer = answer
        self.heard = b""
        self.url = ""
        self.talks: list[asyncio.Task[None]] = []

    def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.talks.append(asyncio.create_task(self._talk(reader, writer)))

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard += await reader.read(65536)
        if self._answer is None:
            await reader.read()  # until the gateway gives up
        else:
            writer.write(self._answer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@asynccontextmanager
async def failing(answer: bytes | None) -> AsyncIterator[tuple[Failing, Encoder, Index]]:
    neighbour = Failing(answer)
    async with await asyncio.start_server(neighbour, "127.0.0.1", 0) as server:
        async with aiohttp.ClientSession() as session:
            neighbour.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            yield neighbour, encoder_at(neighbour.url, session), index_at(neighbour.url, session)
        await asyncio.gather(*neighbour.talks)


def encoder_at(url: str, session: aiohttp.ClientSession, seconds: float = 0.3) -> Encoder:
    return Encoder(session, url, connect_seconds=seconds, embed_seconds=seconds, rerank_seconds=seconds)


def index_at(url: str, session: aiohttp.ClientSession) -> Index:
    return Index(session, url, connect_seconds=0.3, search_seconds=0.3)


def http(status: int, body: bytes, media_type: str = "application/json", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} x", f"Content-Type: {media_type}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def problem(slug: str, status: int, *headers: str) -> bytes:
    document = {
        "type": f"urn:diptych:problem:{slug}",
        "title": "t",
        "status": status,
        "detail": "what was wrong",
        "limit": 3,
    }
    return http(status, json.dumps(document).encode(), MEDIA_TYPE, *headers)


async def refusal(answer: bytes | None) -> Problem:
    async with failing(answer) as (_, encoder, _index):
        with pytest.raises(Problem) as caught:
            await encoder.embed("a dog", MODEL, with_tokens=False)
        return caught.value


async def test_nobody_there() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    async with aiohttp.ClientSession() as session:
        with pytest.raises(UnavailableError) as caught:
            await encoder_at(url, session).embed("a dog", MODEL, with_tokens=False)
    assert caught.value.dropped
    assert caught.value.status == 503
    assert caught.value.retry_after == 1
    assert f"the encoder at {url} does not answer (Connection refused)" in caught.value.detail
    assert "DIPTYCH_GATEWAY_ENCODER_URL" in caught.value.detail


async def test_an_address_that_is_none() -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(UnavailableError, match="DIPTYCH_GATEWAY_INDEX_URL"):
            await index_at("nonsense", session).status()


async def test_silence_ends_in_a_time_out_that_is_not_worth_repeating() -> None:
    found = await refusal(None)
    assert isinstance(found, UnavailableError)
    assert not found.dropped
    assert "did not answer within 0.3 s" in found.detail


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"])
async def test_a_connection_that_breaks_is_worth_repeating(answer: bytes) -> None:
    found = await refusal(answer)
    assert isinstance(found, UnavailableError)
    assert found.dropped


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        http(200, b"<html>", "text/html"),
        http(200, b""),
        http(302, b"", "text/html", "Location: /login"),
        http(404, b"<html>", "text/html"),
        http(500, b"[]"),
        http(500, b'{"type": 1, "detail": 2}'),
        http(200, wire.pack({"embedding": np.ones((1, 4), np.float32)}, {"fingerprint": "bbb"})),
        http(200, wire.pack({"embedding": np.ones((1, 3), np.float32)}, {"fingerprint": "aaa"})),
        http(200, wire.pack({"embedding": np.full((1, 4), np.nan, np.float32)}, {"fingerprint": "aaa"})),
        problem("internal-error", 500),
        problem("not-found", 404),
        problem("something-new", 400),
    ],
)
async def test_an_answer_that_makes_no_sense_is_the_neighbours_fault(answer: bytes) -> None:
    found = await refusal(answer)
    assert isinstance(found, UnavailableError)
    assert found.status == 503


async def test_a_token_that_differs_is_spoken_of_as_such() -> None:
    async with failing(problem("unauthenticated", 401)) as (neighbour, encoder, index):
        for name, status in (("encoder", encoder.status), ("index", index.status)):
            with pytest.raises(UnavailableError) as caught:
                await status()
            assert f"the {name} at {neighbour.url} does not know this gateway" in caught.value.detail
            assert "correct DIPTYCH_INTERNAL_TOKEN" in caught.value.detail
            assert not caught.value.dropped


async def test_garbage_instead_of_a_status() -> None:
    for answer in (http(200, b"{}"), http(200, b"\xff\x00"), problem("not-found", 404)):
        async with failing(answer) as (neighbour, encoder, index):
            for status in (encoder.status, index.status):
                with pytest.raises(UnavailableError, match=neighbour.url if b"200" in answer else "404"):
                    await status()


@pytest.mark.parametrize("items", [[], [[{"id": "a"}, {"id": "b"}]], {}, None, [None]])
async def test_search_results_that_do_not_fit_together(items: object) -> None:
    scores = np.ones((1, 1), np.float32)
    async with failing(http(200, wire.pack({"scores": scores}, {"items": items}))) as (_, _encoder, index):
        with pytest.raises(UnavailableError, match="cannot be read"):
            await index.search("images", np.ones(4, np.float32), 5, "i/1", with_tokens=False)


@pytest.mark.parametrize("items", [[[{"id": "a"}]], [[{"name": "a.png"}]], [["a"]], [[None]]])
async def test_items_of_which_too_little_is_said(items: object) -> None:
    scores = np.ones((1, 1), np.float32)
    async with failing(http(200, wire.pack({"scores": scores}, {"items": items}))) as (_, _encoder, index):
        with pytest.raises(UnavailableError, match="cannot be read"):
            await index.search("images", np.ones(4, np.float32), 5, "i/1", with_tokens=False)


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b"null", b"7", b"\xff", b"[" * 100_000, b'{"images": [{}], "revision": "x"}', b'{"images": 5}'],
)
async def test_documents_of_the_index_that_are_none(body: bytes) -> None:
    for status in (200, 500):
        async with failing(http(status, body)) as (_, _encoder, index):
            for ask in (
                index.about("a", "i/1"),
                index.page("", 5, "i/1"),
                index.pending("i/1"),
                index.remove("a", "i/1"),
                index.put("a", b"", "i/1"),
                index.put_embedding("a", 1, b"", "i/1"),
            ):
                with pytest.raises(UnavailableError):
                    await ask


async def test_a_photo_that_was_changed_meanwhile_needs_no_embedding() -> None:
    async with failing(http(200, b'{"id": "a", "revision": null}')) as (_, _encoder, index):
        assert await index.put_embedding("a", 1, b"", "i/1") == 0


async def test_who_does_not_answer_in_time_is_not_waited_for_again_and_again() -> None:
    async with failing(None) as (neighbour, encoder, _index):

        async def ask() -> tuple[float, Problem]:
            started = asyncio.get_running_loop().time()
            with pytest.raises(UnavailableError) as caught:
                await encoder.embed("a dog", MODEL, with_tokens=False)
            return asyncio.get_running_loop().time() - started, caught.value

        waited = [await ask() for _ in range(FAILURES)]
        assert all("did not answer within" in problem.detail for _, problem in waited)
        talks = len(neighbour.talks)
        at_once = await asyncio.gather(*(ask() for _ in range(50)))
        assert all("left alone for a moment" in problem.detail for _, problem in at_once)
        assert {problem.retry_after for _, problem in at_once} == {2}
        assert len(neighbour.talks) == talks
        # It is another matter with other work, and with whether it is there at all.
        for other in (encoder.embed(b"picture", MODEL, with_tokens=False), encoder.status()):
            with pytest.raises(UnavailableError, match="did not answer within"):
                await other
        await asyncio.sleep(PAUSE_SECONDS)
        again = await asyncio.gather(*(ask() for _ in range(5)))
        assert sum("did not answer within" in problem.detail for _, problem in again) == 1


async def test_one_answer_in_time_lets_everybody_through() -> None:
    circuit = Circuit()
    for _ in range(FAILURES):
        assert circuit.admits()
        circuit.timed_out()
    assert not circuit.admits()
    circuit.ended()
    assert all(circuit.admits() for _ in range(10))


async def test_a_photo_that_is_no_picture_is_not_passed_on() -> None:
    async with failing(http(200, b"<script>", "text/html")) as (_, _encoder, index):
        with pytest.raises(UnavailableError, match="text/html"):
            await index.photo("abc", "i/1")


@pytest.mark.parametrize(
    ("slug", "status"),
    [
        ("invalid-image", 415),
        ("image-too-large", 413),
        ("invalid-request", 422),
        ("overloaded", 503),
        ("not-ready", 503),
    ],
)
async def test_what_is_wrong_with_the_request_is_passed_on(slug: str, status: int) -> None:
    found = await refusal(problem(slug, status, "Retry-After: 7"))
    assert (found.slug, found.status, found.detail) == (slug, status, "what was wrong")
    assert found.retry_after == 7
    assert found.extra == {"limit": 3}


async def test_the_request_id_goes_along() -> None:
    async with failing(http(500, b"")) as (neighbour, encoder, _index):
        with bound_contextvars(request_id="the-callers-own"), pytest.raises(UnavailableError):
            await encoder.embed(b"bytes of a picture", MODEL, with_tokens=True)
    head, _, body = neighbour.heard.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /embed/image?model=m/1&tokens=true HTTP/1.1")
    assert b"x-request-id: the-callers-own" in head.lower()
    assert body == b"bytes of a picture"


def test_a_stored_embedding_is_checked_like_a_fresh_one() -> None:
    vector = np.ones((1, 4), np.float32)
    stored = Embedding.read(wire.pack({"embedding": vector}, {"fingerprint": "aaa"}), MODEL)
    assert stored.vector.tolist() == [1, 1, 1, 1]
    assert stored.tokens is None
    with pytest.raises(WireError, match="not by 'm/1'"):
        Embedding.read(wire.pack({"embedding": vector}, {"fingerprint": "bbb"}), MODEL)
