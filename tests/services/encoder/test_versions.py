"""Changing the model while it is being asked."""

from __future__ import annotations

import asyncio
import io
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from services.encoder.app import create
from services.encoder.settings import EncoderSettings
from shared import tokens, wire
from shared.artifacts import ArtifactStore, Ref
from shared.engines import images, open_engine
from tests.support.photos import draw

ONE, TWO, THREE = (Ref("tiny", version) for version in "123")
RETIRE_SECONDS = 0.5


@pytest.fixture
async def client(store: ArtifactStore) -> AsyncIterator[httpx.AsyncClient]:
    """The service with tiny/1."""
    store.activate(ONE, None)
    app = create(
        EncoderSettings(store=store.root, engine="onnx", threads=1, poll_seconds=0.05, retire_seconds=RETIRE_SECONDS)
    )
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://encoder", timeout=30) as client,
    ):
        await until(client, lambda status: status["current"] == str(ONE))
        yield client


async def until(client: httpx.AsyncClient, true_of: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Wait for the status to be so."""
    async with asyncio.timeout(60):
        while not true_of(status := (await client.get("/status")).json()):
            await asyncio.sleep(0.02)
    return dict(status)


async def model_of(client: httpx.AsyncClient, model: object = None) -> object:
    """Which model answers; the status when none does."""
    answer = await client.post("/embed/text", json={"texts": ["a dog"], "model": model})
    return wire.unpack(answer.content)[1]["model"] if answer.status_code == 200 else answer.status_code


async def test_switching_back_and_forth_fails_no_request_and_mixes_no_answers(
    client: httpx.AsyncClient, store: ArtifactStore, variants: tuple[Path, Path, Path]
) -> None:
    engines = {str(ONE): open_engine(variants[0], engine="onnx"), str(TWO): open_engine(variants[1], engine="onnx")}
    texts = ["a dog runs", "the red ball is on the ground", "cat"]
    buffer = io.BytesIO()
    draw("ball", "red", "blue").save(buffer, "JPEG")
    photo = buffer.getvalue()
    vectors, pictures = {}, {}
    for ref, engine in engines.items():
        vectors[ref] = engine.embed_texts(texts).embedding
        pictures[ref] = engine.embed_images(images.pixels(photo, engine.manifest.preprocessing)[None])
    assert float((vectors[str(ONE)] * vectors[str(TWO)]).sum(axis=1).max()) < 0.99
    stop = asyncio.Event()
    answered: set[str] = set()

    async def ask(path: str, **request: Any) -> tuple[dict[str, wire.Array], str]:
        answer = await client.post(path, **request)
        assert answer.status_code == 200, answer.text
        tensors, meta = wire.unpack(answer.content)
        answered.add(meta["model"])
        return tensors, meta["model"]

    async def keep_asking(once: Callable[[int], Awaitable[None]]) -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            await once(number)

    async def by_text(number: int) -> None:
        row = number % len(texts)
        tensors, ref = await ask("/embed/text", json={"texts": [texts[row]]})
        assert np.allclose(tensors["embedding"][0], vectors[ref][row], atol=1e-4)

    async def by_image(_: int) -> None:
        tensors, ref = await ask("/embed/image", content=photo)
        assert np.allclose(tensors["embedding"], pictures[ref].embedding, atol=1e-4)

    async def by_pairs(_: int) -> None:
        query = engines[str(ONE)].embed_texts(["a dog"]).tokens
        body = wire.pack({**tokens.to_tensors(query, "query_"), **tokens.to_tensors(pictures[str(ONE)].tokens)})
        tensors, ref = await ask("/rerank?query=text", content=body)
        assert tensors["logits"].shape == (1,), ref

    load = [asyncio.create_task(keep_asking(once)) for once in (by_text, by_text, by_text, by_image, by_pairs)]
    store.activate(TWO, None)
    await until(client, lambda status: status["current"] == str(TWO))
    store.rollback()
    await until(client, lambda status: status["current"] == str(ONE))
    stop.set()
    await asyncio.gather(*load)
    assert answered == {str(ONE), str(TWO)}


async def test_the_replaced_version_goes_on_answering_until_it_is_two_deployments_old(
    client: httpx.AsyncClient, store: ArtifactStore
) -> None:
    store.activate(TWO, None)
    status = await until(client, lambda status: status["current"] == str(TWO))
    assert {model["ref"] for model in status["models"]} == {str(ONE), str(TWO)}
    assert [await model_of(client, model) for model in (str(ONE), str(TWO), None)] == [str(ONE), str(TWO), str(TWO)]
    store.activate(THREE, None)
    status = await until(client, lambda status: status["current"] == str(THREE) and len(status["models"]) == 2)
    assert {model["ref"] for model in status["models"]} == {str(TWO), str(THREE)}
    assert [await model_of(client, model) for model in (str(ONE), str(TWO), None)] == [409, str(TWO), str(THREE)]


async def test_a_damaged_version_is_not_served_and_the_old_one_goes_on(
    client: httpx.AsyncClient, store: ArtifactStore
) -> None:
    graph = store.path("model", TWO) / "text.onnx"
    graph.write_bytes(graph.read_bytes()[:-100])
    store.activate(TWO, None)
    status = await until(client, lambda status: status["problem"] is not None)
    assert "tiny/2 cannot be served" in status["problem"]
    assert "text.onnx has" in status["problem"]
    assert status["current"] == str(ONE)
    assert await model_of(client) == str(ONE)
    assert (await client.get("/health/ready")).status_code == 200
    store.rollback()
    await until(client, lambda status: status["problem"] is None)


async def test_an_unreadable_pointer_changes_nothing(client: httpx.AsyncClient, store: ArtifactStore) -> None:
    store.pointer.write_text("{")
    status = await until(client, lambda status: status["problem"] is not None)
    assert "current.json cannot be understood" in status["problem"]
    assert await model_of(client) == str(ONE)
    store.pointer.unlink()
    assert await model_of(client) == str(ONE)
