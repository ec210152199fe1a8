"""Many photos in one request, through real services."""

from __future__ import annotations

import base64
import http.client
import io
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image

from shared.client import AsyncClient, Client, Upload
from shared.schemas_v1 import BulkResult
from tests.support.stack import Stack
from tests.support.waiting import wait_for

NDJSON = {"Content-Type": "application/x-ndjson"}


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    """What a test has put in is taken out again."""
    with Client(stack.url("gateway"), retries=0) as client:
        yield client
        for image in [image.id for image in client.images() if image.id.startswith("bulk-")]:
            client.remove_image(image)


def picture(seed: int, size: tuple[int, int] = (24, 24)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (seed * 7 % 256, seed * 31 % 256, seed % 256)).save(out, "PNG")
    return out.getvalue()


def line(number: int, **changes: Any) -> bytes:
    said = {"id": f"bulk-{number}", "image": base64.b64encode(picture(number)).decode(), **changes}
    return json.dumps({name: value for name, value in said.items() if value is not None}).encode()


def send(http: httpx.Client, *lines: bytes) -> dict[int, dict[str, Any]]:
    answer = http.post("/v1/images:bulk", content=b"\n".join(lines), headers=NDJSON)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    results = [json.loads(one) for one in answer.text.splitlines()]
    assert len({one["line"] for one in results}) == len(results)
    return {one["line"]: one for one in results}


def test_each_line_is_answered_and_a_broken_one_ends_nothing(client: Client, http: httpx.Client) -> None:
    broken: dict[int, tuple[bytes, str]] = {
        2: (b"{", "EOF while parsing"),
        4: (b'{"id": "x"}', "image: Field required"),
        5: (line(5, image="?"), "not base64"),
        6: (line(6, image=base64.b64encode(b"no picture").decode()), "not a whole image"),
        7: (line(7, id="../etc"), "cannot be an id"),
        8: (line(8, colour="red"), "colour: Extra inputs"),
        9: (line(9, captions=[" "]), "captions.0"),
        10: (line(10).replace(b'"id"', b'"metadata": {"x": NaN}, "id"'), "metadata"),
        11: (line(11, metadata={"x": "y" * 20_000}), "the limit is 16,384"),
        12: (b"\xff\xfe", "line"),
        13: (b"[" * 100_000, "line"),
        14: (b"x" * 30_000_000, "over 29,010,602 bytes"),
    }
    good = {1: line(1, captions=["plain"], tags=["bulk"], metadata={"n": 1}), 3: line(3), 15: line(15)}
    lines = {**good, **{number: text for number, (text, _) in broken.items()}}
    results = send(http, *(lines[number] for number in sorted(lines)))
    assert results.keys() == lines.keys()
    for number, (_, says) in broken.items():
        assert results[number]["status"] == "failed"
        assert says in results[number]["problem"]["detail"]
        assert results[number]["problem"]["type"].startswith("urn:diptych:problem:")
    assert {number: results[number]["status"] for number in good} == dict.fromkeys(good, "created")
    stored = client.stored_image("bulk-1")
    assert (stored.captions, stored.tags, stored.metadata) == (["plain"], ["bulk"], {"n": 1})
    assert client.image("bulk-3") == picture(3)
    assert {one["status"] for one in send(http, *good.values(), b"", b"  ").values()} == {"unchanged"}


def test_results_come_while_it_is_sent_and_who_hangs_up_stops_it(client: Client, stack: Stack) -> None:
    where = urlsplit(stack.url("gateway"))
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
    connection.putrequest("POST", "/v1/images:bulk")
    connection.putheader("Content-Type", "application/x-ndjson")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    for number in (1, 2):
        text = line(100 + number) + b"\n"
        connection.send(f"{len(text):x}\r\n".encode() + text + b"\r\n")
    wait_for(lambda: {"bulk-101", "bulk-102"} <= {one.id for one in client.images()}, "the photos to be there")
    half = line(103)[:50]
    connection.send(f"{len(half):x}\r\n".encode() + half + b"\r\n")
    connection.close()
    wait_for(lambda: "bulk upload broken off" in stack.log("gateway"), "the gateway to notice")
    assert "bulk-103" not in {one.id for one in client.images()}


def test_a_request_without_lines_and_one_of_another_kind(http: httpx.Client) -> None:
    assert send(http) == {}
    refused = http.post("/v1/images:bulk", content=line(1), headers={"Content-Type": "application/json"})
    assert (refused.status_code, "application/x-ndjson is needed" in refused.json()["detail"]) == (422, True)


def test_the_client_sends_as_many_as_it_is_given(client: Client) -> None:
    given: list[int] = []

    def uploads() -> Iterator[Upload]:
        for number in range(70):
            given.append(number)
            data = b"no picture" if number == 13 else picture(200 + number)
            yield Upload(data, f"bulk-{200 + number}", captions=[f"plain {number}"], metadata={"n": number})

    results: list[BulkResult] = []
    for result in client.put_images(uploads()):
        if not results:
            assert len(given) < 70  # the first came before the last was read
        results.append(result)
    assert sorted(result.line for result in results) == list(range(1, 71))
    (failed,) = (result for result in results if result.status == "failed")
    assert (failed.line, failed.id) == (14, "bulk-213")
    assert failed.problem is not None
    assert failed.problem["type"] == "urn:diptych:problem:invalid-image"
    assert client.stored_image("bulk-250").metadata == {"n": 50}


async def test_the_asynchronous_client_does_too(stack: Stack, client: Client) -> None:
    async with AsyncClient(stack.url("gateway"), retries=0) as asking:
        uploads = (Upload(picture(300 + number), f"bulk-{300 + number}") for number in range(3))
        assert {(one.line, one.status) async for one in asking.put_images(uploads)} == {
            (1, "created"),
            (2, "created"),
            (3, "created"),
        }
