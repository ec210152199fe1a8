"""The shell that every service wears, around a small application of routes that do what routes do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, File, Form, Request, UploadFile
from fastapi.responses import StreamingResponse
from prometheus_client import REGISTRY
from pydantic import SecretStr
from structlog.testing import capture_logs

from shared.http import INTERNAL_HEADER, create_app
from shared.problems import Problem

LIMIT = 10_000


def application(problems: list[str], token: str | None = None) -> FastAPI:
    async def found() -> list[str]:
        return problems

    secret = None if token is None else SecretStr(token)
    app = create_app("shell", found, max_body_bytes=LIMIT, internal_token=secret)

    @app.post("/bytes")
    async def count(request: Request) -> int:
        return len(await request.body())

    @app.post("/form")
    async def form(file: Annotated[UploadFile, File()], k: Annotated[int, Form(ge=1)] = 5) -> int:
        return len(await file.read()) + k

    @app.get("/things/{number}")
    async def thing(number: int) -> int:
        if number == 0:
            raise ZeroDivisionError("a secret of the implementation")
        if number < 0:
            raise Problem("overloaded", "come back later", retry_after=3, queue=7)
        return number

    @app.get("/half")
    async def half() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"half of an answer"
            raise ZeroDivisionError("and no more")

        return StreamingResponse(parts())

    return app


@asynccontextmanager
async def serving() -> AsyncIterator[int]:
    """The application behind the server that runs it in earnest; gives its port."""
    server = uvicorn.Server(uvicorn.Config(application([]), port=0, log_config=None, access_log=False))
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield int(server.servers[0].sockets[0].getsockname()[1])
    server.should_exit = True
    await running


@pytest.fixture
def problems() -> list[str]:
    return []


@pytest.fixture
async def client(problems: list[str]) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(application(problems), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def is_problem(answer: httpx.Response, status: int, slug: str) -> str:
    """Check a problem document's form, and give its detail."""
    document = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, document["status"]) == (status, status)
    assert document["type"] == f"urn:diptych:problem:{slug}"
    assert document["title"]
    assert document["request_id"] == answer.headers["x-request-id"]
    return str(document["detail"])


async def chunks(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 1000):
        yield bytes(1000)


def counted(**labels: str) -> float:
    return REGISTRY.get_sample_value("diptych_http_requests_total", {"service": "shell", **labels}) or 0.0


async def test_a_body_up_to_the_limit_is_taken(client: httpx.AsyncClient) -> None:
    assert (await client.post("/bytes", content=bytes(LIMIT))).json() == LIMIT
    assert (await client.post("/bytes", content=chunks(LIMIT))).json() == LIMIT


async def test_a_body_whose_declared_length_is_over_the_limit_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post("/bytes", content=bytes(LIMIT + 1))
    assert "over the limit of 10000 bytes" in is_problem(answer, 413, "body-too-large")


async def test_a_body_without_declared_length_is_refused_once_it_is_over_the_limit(client: httpx.AsyncClient) -> None:
    answer = await client.post("/bytes", content=chunks(LIMIT + 1000))
    assert "content-length" not in answer.request.headers
    is_problem(answer, 413, "body-too-large")


async def test_a_form_over_the_limit_is_refused_as_too_large_and_not_as_malformed(client: httpx.AsyncClient) -> None:
    is_problem(await client.post("/form", files={"file": bytes(LIMIT)}), 413, "body-too-large")
    request = client.build_request("POST", "/form", files={"file": bytes(LIMIT)})
    boundary = request.headers["content-type"]
    body = await request.aread()

    async def undeclared() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]

    answer = await client.post("/form", content=undeclared(), headers={"content-type": boundary})
    is_problem(answer, 413, "body-too-large")


async def test_a_form_that_cannot_be_parsed_is_invalid(client: httpx.AsyncClient) -> None:
    headers = {"content-type": "multipart/form-data; boundary=x"}
    is_problem(await client.post("/form", content=b"--y\r\ngarbage", headers=headers), 422, "invalid-request")


async def test_an_unknown_route_is_named(client: httpx.AsyncClient) -> None:
    assert "/nowhere" in is_problem(await client.get("/nowhere"), 404, "not-found")


async def test_a_wrong_method_is_told_the_right_ones(client: httpx.AsyncClient) -> None:
    answer = await client.delete("/things/1")
    assert "DELETE" in is_problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == "GET"


async def test_an_invalid_value_is_named_with_its_field(client: httpx.AsyncClient) -> None:
    answer = await client.get("/things/many")
    assert "path.number" in is_problem(answer, 422, "invalid-request")
    assert answer.json()["errors"][0]["field"] == "path.number"
    answer = await client.post("/form", files={"file": b"abc"}, data={"k": "0"})
    assert "body.k" in is_problem(answer, 422, "invalid-request")


async def test_a_problem_keeps_its_own_fields(client: httpx.AsyncClient) -> None:
    answer = await client.get("/things/-1")
    assert is_problem(answer, 503, "overloaded") == "come back later"
    assert answer.json()["queue"] == 7
    assert answer.headers["retry-after"] == "3"


async def test_a_crash_is_a_problem_that_keeps_its_secrets(client: httpx.AsyncClient) -> None:
    answer = await client.get("/things/0", headers={"X-Request-ID": "abc"})
    is_problem(answer, 500, "internal-error")
    assert answer.headers["x-request-id"] == "abc"
    assert "secret" not in answer.text


@pytest.mark.parametrize(("path", "by_us", "by_the_server"), [("/things/0", 1, 0), ("/half", 0, 1)])
async def test_a_crash_is_logged_once(
    caplog: pytest.LogCaptureFixture, path: str, by_us: int, by_the_server: int
) -> None:
    async with serving() as port, httpx.AsyncClient() as client:
        with capture_logs() as logs:
            try:
                answered = (await client.get(f"http://127.0.0.1:{port}{path}")).status_code == 500
            except httpx.RemoteProtocolError:
                answered = False  # half an answer must not pass for a whole one
    assert answered == bool(by_us)
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["unhandled"] * by_us
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == by_the_server


@pytest.mark.parametrize("path", ["/bytes", "/form"])
async def test_a_caller_who_hangs_up_in_the_middle_of_an_upload_is_no_error(
    caplog: pytest.LogCaptureFixture, path: str
) -> None:
    before = counted(route=path, method="POST", status="499")
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nbegins'
    )
    async with serving() as port:
        with capture_logs() as logs:
            _, upload = await asyncio.open_connection("127.0.0.1", port)
            upload.write(head.encode())
            await upload.drain()
            while not REGISTRY.get_sample_value("diptych_http_requests_in_flight", {"service": "shell"}):
                await asyncio.sleep(0.01)
            upload.close()
            await upload.wait_closed()
            async with asyncio.timeout(60):
                while counted(route=path, method="POST", status="499") == before:
                    await asyncio.sleep(0.01)
    assert [(entry["event"], entry["log_level"], entry["status"]) for entry in logs] == [("request", "info", 499)]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_safe_request_id_is_echoed(client: httpx.AsyncClient) -> None:
    answer = await client.get("/things/1", headers={"X-Request-ID": "order-66.a_B"})
    assert answer.headers["x-request-id"] == "order-66.a_B"


@pytest.mark.parametrize("unsafe", [b"", b"a b", b"x" * 65, b"a\nb", b'{"a":1}', "ä".encode(), b"\xff"])
async def test_an_unsafe_request_id_is_replaced(client: httpx.AsyncClient, unsafe: bytes) -> None:
    answers = [await client.get("/things/1", headers=[(b"X-Request-ID", unsafe)]) for _ in range(2)]
    given = {answer.headers["x-request-id"] for answer in answers}
    assert len(given) == 2
    assert all(len(value) == 32 and value.isalnum() for value in given)


async def test_metrics_carry_the_template_of_a_route_and_no_path(client: httpx.AsyncClient) -> None:
    before = counted(route="/things/{number}", method="GET", status="200")
    for number in (41, 42):
        await client.get(f"/things/{number}")
    assert counted(route="/things/{number}", method="GET", status="200") == before + 2
    await client.get("/nowhere/17")
    assert counted(route="unmatched", method="GET", status="404") > 0
    await client.request("BREW", "/things/1")
    assert counted(route="/things/{number}", method="other", status="405") > 0
    await client.get("/things/0")
    assert counted(route="/things/{number}", method="GET", status="500") > 0
    text = (await client.get("/metrics")).text
    assert "diptych_http_request_seconds_bucket" in text
    assert "/things/4" not in text
    assert "nowhere" not in text
    assert 'diptych_http_requests_in_flight{service="shell"} 1.0' in text  # the asking itself


async def test_live_means_the_process_is_up(client: httpx.AsyncClient, problems: list[str]) -> None:
    problems.append("nothing is loaded")
    answer = await client.get("/health/live")
    assert (answer.status_code, answer.json()) == (200, {"status": "live"})


async def test_ready_says_what_is_missing(client: httpx.AsyncClient, problems: list[str]) -> None:
    answer = await client.get("/health/ready")
    assert (answer.status_code, answer.json()) == (200, {"ready": True, "problems": []})
    problems.append("nothing is loaded")
    answer = await client.get("/health/ready")
    assert (answer.status_code, answer.json()) == (503, {"ready": False, "problems": ["nothing is loaded"]})


async def test_with_an_internal_token_only_who_shows_it_is_answered(problems: list[str]) -> None:
    transport = httpx.ASGITransport(application(problems, "the-token"), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://shell") as client:
        for shown, is_wrong in (
            ({}, "missing"),
            ({INTERNAL_HEADER: ""}, "missing"),
            ({INTERNAL_HEADER: "the-toke"}, "wrong"),
        ):
            for path in ("/things/1", "/docs", "/openapi.json", "/nowhere", "/healthy", "/health/../things/1"):
                answer = await client.get(path, headers=shown)
                detail = is_problem(answer, 401, "unauthenticated")
                assert f"{INTERNAL_HEADER} is {is_wrong}" in detail
                assert "DIPTYCH_INTERNAL_TOKEN" in detail
                assert answer.headers["www-authenticate"] == "Diptych-Internal"
        is_problem(await client.post("/bytes", content=chunks(LIMIT + 1000)), 401, "unauthenticated")  # unread
        assert (await client.get("/things/1", headers={INTERNAL_HEADER.lower(): "the-token"})).json() == 1
        for path in ("/health/live", "/health/ready", "/metrics"):
            assert (await client.get(path)).status_code == 200
