"""Several encoders: who is asked, who is left alone, and who answers instead. With real encoders it is in tests/e2e."""

import asyncio
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from prometheus_client import REGISTRY

from diptych.ports import free_port
from services.gateway.addresses import Address, look_up, split
from services.gateway.encoder import Encoder
from services.gateway.neighbours import UnavailableError
from services.gateway.replicas import SLOW_SAMPLES, Replicas
from shared import wire
from shared.problems import MEDIA_TYPE, Problem
from shared.schemas import EncoderStatus, Scoring, ServedModel


def model(ref: str = "m/1", fingerprint: str = "aaa") -> ServedModel:
    return ServedModel(
        ref=ref, fingerprint=fingerprint, embedding_dim=4, token_dim=2, has_reranker=True, scoring=Scoring()
    )


M1, M2 = model(), model("m/2", "bbb")


class Small:
    """An HTTP server that says what an encoder says, ``delay`` seconds late, or refuses with ``problem``."""

    def __init__(self, *models: ServedModel) -> None:
        self.models = models
        self.delay = 0.0
        self.problem: tuple[str, int] | None = None
        self.asked = 0
        self.host = ""

    async def status(self, _request: web.Request) -> web.Response:
        status = EncoderStatus(engine="onnx", current=self.models[-1].ref, models=list(self.models))
        return web.Response(text=status.model_dump_json(), content_type="application/json")

    async def embed(self, request: web.Request) -> web.Response:
        self.asked += 1
        self.host = request.headers["Host"]
        asked = (await request.json())["model"]
        await asyncio.sleep(self.delay)
        made_by = next((one for one in self.models if one.ref == asked), None)
        slug, status = self.problem or ("unknown-version", 409)
        if self.problem or made_by is None:
            document = {"type": f"urn:diptych:problem:{slug}", "title": "t", "status": status, "detail": "refused"}
            return web.Response(status=status, body=json.dumps(document), content_type=MEDIA_TYPE)
        body = wire.pack({"embedding": np.ones((1, 4), np.float32)}, {"fingerprint": made_by.fingerprint})
        return web.Response(body=body, content_type=wire.MEDIA_TYPE)


@asynccontextmanager
async def running(small: Small, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    app = web.Application()
    app.add_routes([web.get("/status", small.status), web.post("/embed/text", small.embed)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield f"http://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def encoder_of(*smalls: Small, also: str = "", seconds: float = 2.0) -> AsyncIterator[tuple[Encoder, list[str]]]:
    async with AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(running(small)) for small in smalls]
        session = await stack.enter_async_context(aiohttp.ClientSession())
        where = ", ".join([also, *urls] if also else urls)
        encoder = Encoder(session, where, connect_seconds=0.3, embed_seconds=seconds, rerank_seconds=seconds)
        await encoder.status()
        yield encoder, urls


async def embed(encoder: Encoder, by: ServedModel = M1) -> None:
    await encoder.embed("a dog", by, with_tokens=False)


def metric(name: str, url: str) -> float | None:
    return REGISTRY.get_sample_value(f"diptych_gateway_encoder_{name}", {"replica": url})


def retried() -> float:
    return REGISTRY.get_sample_value("diptych_gateway_encoder_retried_total") or 0.0


async def test_one_after_the_other_each_in_its_turn() -> None:
    smalls = [Small(M1) for _ in range(3)]
    async with encoder_of(*smalls) as (encoder, urls):
        for _ in range(12):
            await embed(encoder)
        assert [small.asked for small in smalls] == [4, 4, 4]
        assert [metric("seconds_count", url) for url in urls] == [4, 4, 4]


async def test_who_has_least_to_do_is_asked() -> None:
    busy, idle = Small(M1), Small(M1)
    async with encoder_of(busy, idle) as (encoder, urls):
        busy.delay = idle.delay = 0.5
        first = [asyncio.create_task(embed(encoder)) for _ in range(2)]
        await asyncio.sleep(0.2)
        assert [metric("outstanding", url) for url in urls] == [1, 1]
        idle.delay = 0.0
        await asyncio.gather(*first)
        first = [asyncio.create_task(embed(encoder))]
        await asyncio.sleep(0.1)
        if idle.asked > busy.asked:  # it was the other's turn
            first.append(asyncio.create_task(embed(encoder)))
            await asyncio.sleep(0.1)
        before = busy.asked
        for _ in range(5):
            await embed(encoder)
        assert busy.asked == before
        await asyncio.gather(*first)
        assert [metric("outstanding", url) for url in urls] == [0, 0]


async def test_a_dead_one_costs_no_request_and_is_asked_again_once_it_answers() -> None:
    alive, risen = Small(M1), Small(M1)
    port = free_port()
    dead = f"http://127.0.0.1:{port}"
    async with encoder_of(alive, also=dead) as (encoder, urls):
        assert metric("ejected", dead) == 1
        await asyncio.gather(*(embed(encoder) for _ in range(10)))
        assert (alive.asked, metric("ejected", urls[0])) == (10, 0)
        async with running(risen, port=port):
            await encoder.status()
            await asyncio.sleep(0.2)  # who was away is looked at, and not waited for
            assert metric("ejected", dead) == 0
            await asyncio.gather(*(embed(encoder) for _ in range(10)))
            assert risen.asked == 5
        before = retried()
        await asyncio.gather(*(embed(encoder) for _ in range(10)))  # some find it gone
        assert (alive.asked, metric("ejected", dead)) == (25, 1)
        assert retried() > before


async def test_one_that_is_silent_costs_half_the_time() -> None:
    silent, good = Small(M1), Small(M1)
    async with encoder_of(silent, good, seconds=1.0) as (encoder, _):
        silent.delay = 60
        await asyncio.gather(*(embed(encoder) for _ in range(4)))
        assert (silent.asked, good.asked) == (2, 4)


@pytest.mark.parametrize("slug", ["overloaded", "not-ready"])
async def test_one_that_refuses_is_left_alone_for_a_while(slug: str) -> None:
    full, free = Small(M1), Small(M1)
    async with encoder_of(full, free) as (encoder, urls):
        full.problem = (slug, 503)
        for _ in range(10):
            await embed(encoder)
        assert (full.asked, free.asked) == (1, 10)
        assert [metric("ejected", url) for url in urls] == [1, 0]


async def test_where_all_are_overloaded_nobody_is_asked_twice_as_much() -> None:
    smalls = [Small(M1), Small(M1)]
    async with encoder_of(*smalls) as (encoder, _):
        for small in smalls:
            small.problem = ("overloaded", 503)
        for _ in range(10):
            with pytest.raises(Problem) as caught:
                await embed(encoder)
            assert caught.value.slug == "overloaded"
        assert sum(small.asked for small in smalls) == 11


async def test_one_that_always_fails_does_not_draw_all_requests() -> None:
    broken, good = Small(M1), Small(M1)
    async with encoder_of(broken, good) as (encoder, _):
        broken.problem = ("internal-error", 500)
        for _ in range(20):
            await embed(encoder)
        assert (broken.asked, good.asked) == (3, 20)


async def test_what_is_wrong_with_the_request_is_not_asked_again() -> None:
    smalls = [Small(M1), Small(M1)]
    async with encoder_of(*smalls) as (encoder, urls):
        for small in smalls:
            small.problem = ("invalid-request", 422)
        with pytest.raises(Problem) as caught:
            await embed(encoder)
        assert caught.value.slug == "invalid-request"
        assert sum(small.asked for small in smalls) == 1
        assert [metric("ejected", url) for url in urls] == [0, 0]


async def test_a_slow_one_is_put_aside_and_the_last_one_never() -> None:
    slow, quick = Small(M1), Small(M1)
    async with encoder_of(slow, quick) as (encoder, urls):
        slow.delay = 0.3
        await asyncio.gather(*(embed(encoder) for _ in range(4 * SLOW_SAMPLES)))
        await encoder.status()
        assert [metric("ejected", url) for url in urls] == [1, 0]
        before = slow.asked
        await asyncio.gather(*(embed(encoder) for _ in range(10)))
        assert slow.asked == before
        quick.delay = 0.6
        await asyncio.gather(*(embed(encoder) for _ in range(SLOW_SAMPLES)))
        await encoder.status()
        assert metric("ejected", urls[1]) == 0


async def test_one_that_was_slow_is_asked_one_thing_at_a_time_until_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.gateway.replicas.SLOW_ASIDE_SECONDS", 0.2)
    slow, quick = Small(M1), Small(M1)
    async with encoder_of(slow, quick) as (encoder, urls):
        slow.delay = 0.3
        await asyncio.gather(*(embed(encoder) for _ in range(4 * SLOW_SAMPLES)))
        await encoder.status()
        await asyncio.sleep(0.3)
        before, slow.delay, quick.delay = slow.asked, 0.02, 0.02
        await asyncio.gather(*(embed(encoder) for _ in range(10)))
        assert slow.asked == before + 1
        for _ in range(2 * SLOW_SAMPLES):
            await embed(encoder)
        await encoder.status()
        before = slow.asked
        await asyncio.gather(*(embed(encoder) for _ in range(10)))
        assert slow.asked == before + 5
        assert metric("ejected", urls[0]) == 0


async def test_a_version_is_asked_of_who_has_it() -> None:
    old, new = Small(M1), Small(M1, M2)
    async with encoder_of(old, new) as (encoder, _):
        assert encoder.holders == {"m/1": 2, "m/2": 1}
        assert [one.ref for one in (await encoder.status()).models] == ["m/1", "m/2"]
        for _ in range(6):
            await embed(encoder, M2)
        assert (old.asked, new.asked) == (0, 6)
        new.models = (M2,)  # since the last look
        for _ in range(6):
            await embed(encoder, M1)
        assert old.asked == 6
        # A version that nobody has is the caller's to hear of, after one look at another replica.
        with pytest.raises(Problem) as caught:
            await embed(encoder, model("m/3", "ccc"))
        assert caught.value.slug == "unknown-version"


async def test_the_same_version_of_another_model_is_not_taken_for_it() -> None:
    ours, theirs = Small(M1), Small(model("m/1", "zzz"))
    async with encoder_of(ours, theirs) as (encoder, _):
        for _ in range(6):
            await embed(encoder)
        assert (ours.asked, theirs.asked) == (6, 0)


async def test_when_none_answers_that_is_said() -> None:
    ports = [free_port(), free_port()]
    async with aiohttp.ClientSession() as session:
        urls = " ".join(f"http://127.0.0.1:{port}" for port in ports)
        encoder = Encoder(session, urls, connect_seconds=0.3, embed_seconds=1, rerank_seconds=1)
        for ask in (encoder.status(), embed(encoder)):
            with pytest.raises(UnavailableError, match="Connection refused"):
                await ask


def test_urls_are_separated_by_commas_or_blanks() -> None:
    assert split("http://a:1/, http://b:2\thttp://a:1") == ["http://a:1", "http://b:2"]
    assert split("http://a:1") == ["http://a:1"]


def resolve(monkeypatch: pytest.MonkeyPatch, names: dict[str, list[str]]) -> None:
    """Names with these addresses, as name servers give them."""
    real = socket.getaddrinfo

    def found(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host not in names:
            return real(host, port, *args, **kwargs)
        if not names[host]:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        families = [socket.AF_INET6 if ":" in one else socket.AF_INET for one in names[host]]
        return [(its, socket.SOCK_STREAM, 6, "", (one, port)) for its, one in zip(families, names[host], strict=True)]

    monkeypatch.setattr(socket, "getaddrinfo", found)


async def test_every_address_of_a_name_is_a_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {
        "encoder": ["10.0.0.2", "10.0.0.1", "fd00::1", "fd00::2"],
        "one": ["10.0.0.1", "::1"],
        "six": ["::1", "::2"],
    }
    resolve(monkeypatch, names)
    assert await look_up("http://encoder:8001") == [
        Address("http://10.0.0.1:8001", "encoder:8001"),
        Address("http://10.0.0.2:8001", "encoder:8001"),
    ]
    assert [one.url for one in await look_up("http://six:8001")] == ["http://[::1]:8001", "http://[::2]:8001"]
    for as_it_is in ("http://one:8001", "https://encoder:8001", "http://10.0.0.9:8001", "nonsense", "http://[::1"):
        assert await look_up(as_it_is) == [Address(as_it_is)]


async def test_a_name_is_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.gateway.replicas.LOOK_UP_SECONDS", 0.0)
    names = {"encoder": ["127.0.0.1"]}
    resolve(monkeypatch, names)
    port = free_port()
    smalls = [Small(M1), Small(M1)]
    async with (
        running(smalls[0], "127.0.0.1", port),
        running(smalls[1], "127.0.0.2", port),
        aiohttp.ClientSession() as session,
    ):
        replicas = Replicas(session, f"http://encoder:{port}", connect_seconds=0.3)

        async def asked_of_each() -> Counter[int]:
            before = [small.asked for small in smalls]
            _, holders = await replicas.status()
            assert holders == {"m/1": len(replicas)}
            for _ in range(4):
                await replicas.post(M1, "/embed/text", 1.0, json={"model": "m/1"})
            return +Counter({n: small.asked - before[n] for n, small in enumerate(smalls)})

        assert await asked_of_each() == {0: 4}
        names["encoder"] = ["127.0.0.1", "127.0.0.2"]
        assert await asked_of_each() == {0: 2, 1: 2}
        assert smalls[1].host == f"encoder:{port}"
        names["encoder"] = []  # the name server is away
        assert await asked_of_each() == {0: 2, 1: 2}
        names["encoder"] = ["127.0.0.2"]
        assert metric("outstanding", f"http://127.0.0.1:{port}") == 0
        await replicas.status()
        assert metric("outstanding", f"http://127.0.0.1:{port}") is None
