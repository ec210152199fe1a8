"""The encoder service through its HTTP door: what it answers is what the engine computes, whatever is thrown at it."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from services.encoder.app import create
from services.encoder.settings import EncoderSettings
from shared import tokens, wire
from shared.artifacts import ArtifactStore, Ref
from shared.engines import Engine, open_engine
from shared.engines.images import pixels
from shared.problems import MEDIA_TYPE
from tests.support.photos import draw, png_bomb

ONE, PLAIN = Ref("tiny", "1"), Ref("tiny", "3")
TEXTS = ["a red ball", "the dog runs on the beach with a child", "snow"]


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Engine:
    return open_engine(tiny_model, engine="onnx", device="cpu", threads=1)


@pytest.fixture
def store(store: ArtifactStore) -> ArtifactStore:
    """tiny/1 is current."""
    store.activate(ONE, None)
    return store


@asynccontextmanager
async def _service(store: Path, *, ready: bool = True, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    options = {"engine": "onnx", "device": "cpu", "threads": 1, "poll_seconds": 0.02, **settings}
    app = create(EncoderSettings(store=store, **options))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://encoder", timeout=60) as client,
    ):
        if ready:
            await _until(client, lambda status: status["current"] is not None)
        yield client


async def _until(client: httpx.AsyncClient, happened: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while not happened(status := (await client.get("/status")).json()):
            await asyncio.sleep(0.01)
    return dict(status)


@pytest.fixture
async def client(store: ArtifactStore) -> AsyncIterator[httpx.AsyncClient]:
    async with _service(store.root) as client:
        yield client


def _photo(colour: str = "red", kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    draw("ball", colour, "yellow").save(out, kind)
    return out.getvalue()


def _message(response: httpx.Response) -> tuple[dict[str, Any], dict[str, Any]]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == wire.MEDIA_TYPE
    return wire.unpack(response.content)


def _refused(response: httpx.Response, status: int, slug: str) -> str:
    assert response.headers["content-type"] == MEDIA_TYPE, response.text
    document = response.json()
    assert (response.status_code, document["type"]) == (status, f"urn:diptych:problem:{slug}"), document
    assert document["request_id"] == response.headers["x-request-id"]
    return str(document["detail"])


async def test_texts_become_the_engines_vectors_and_tokens(client: httpx.AsyncClient, engine: Engine) -> None:
    tensors, meta = _message(await client.post("/embed/text", json={"texts": TEXTS, "tokens": True}))
    expected = engine.embed_texts(TEXTS)
    np.testing.assert_allclose(tensors["embedding"], expected.embedding, atol=1e-5)
    for one, other in zip(tokens.from_tensors(tensors), expected.tokens, strict=True):
        np.testing.assert_allclose(one.dequantise(), other.dequantise(), atol=0.03)
    assert meta == {"model": "tiny/1", "fingerprint": engine.manifest.fingerprint}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
async def test_an_image_becomes_the_engines_vector_and_tokens(
    client: httpx.AsyncClient, engine: Engine, kind: str
) -> None:
    data = _photo(kind=kind)
    tensors, meta = _message(await client.post("/embed/image", params={"tokens": "true"}, content=data))
    expected = engine.embed_images(pixels(data, engine.manifest.preprocessing)[None])
    np.testing.assert_allclose(tensors["embedding"], expected.embedding, atol=1e-5)
    (found,) = tokens.from_tensors(tensors)
    np.testing.assert_allclose(found.dequantise(), expected.tokens[0].dequantise(), atol=0.03)
    assert meta["model"] == "tiny/1"


async def test_tokens_come_only_when_asked_for(client: httpx.AsyncClient) -> None:
    for response in (
        await client.post("/embed/text", json={"texts": ["a dog"]}),
        await client.post("/embed/image", content=_photo()),
    ):
        assert set(_message(response)[0]) == {"embedding"}


def _rerank_body(query: list[tokens.TokenFeatures], candidates: list[tokens.TokenFeatures]) -> bytes:
    return wire.pack({**tokens.to_tensors(query, "query_"), **tokens.to_tensors(candidates)})


def _images(engine: Engine, count: int = 4) -> list[tokens.TokenFeatures]:
    files = [_photo(colour) for colour in ("red", "green", "blue", "yellow")[:count]]
    return engine.embed_images(np.stack([pixels(file, engine.manifest.preprocessing) for file in files])).tokens


async def test_reranking_agrees_with_the_engine_both_ways(client: httpx.AsyncClient, engine: Engine) -> None:
    texts, images = engine.embed_texts(TEXTS).tokens, _images(engine)
    found, meta = _message(
        await client.post("/rerank", params={"query": "text"}, content=_rerank_body(texts[:1], images))
    )
    np.testing.assert_allclose(found["logits"], engine.rerank(texts[:1] * 4, images), atol=1e-4)
    assert meta["model"] == "tiny/1"
    found, _ = _message(
        await client.post("/rerank", params={"query": "image"}, content=_rerank_body(images[:1], texts))
    )
    np.testing.assert_allclose(found["logits"], engine.rerank(texts, images[:1] * 3), atol=1e-4)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"texts": ["a dog", ""]}, "the text is empty"),
        ({"texts": [" \n"]}, "the text is empty"),
        ({"texts": ["x" * 10_001]}, "10,001 characters, over the limit of 10,000"),
        ({"texts": ["a dog"] * 257}, "257 texts in one request; the limit is 256"),
        ({"texts": []}, "texts"),
        ({"texts": "a dog"}, "texts"),
        ({"texts": [7]}, "texts"),
        ({}, "texts"),
        ([], "body"),
    ],
)
async def test_texts_that_cannot_be_embedded_are_refused(client: httpx.AsyncClient, body: Any, says: str) -> None:
    assert says in _refused(await client.post("/embed/text", json=body), 422, "invalid-request")


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"texts": ["\\ud83d"]}'])
async def test_a_body_that_is_not_json_or_not_text_is_refused(client: httpx.AsyncClient, body: bytes) -> None:
    response = await client.post("/embed/text", content=body, headers={"content-type": "application/json"})
    _refused(response, 422, "invalid-request")


async def test_the_most_that_is_allowed_is_answered(client: httpx.AsyncClient) -> None:
    tensors, _ = _message(await client.post("/embed/text", json={"texts": ["a dog"] * 255 + ["dog " * 2500]}))
    assert tensors["embedding"].shape == (256, 64)


@pytest.mark.parametrize(
    ("data", "status", "slug", "says"),
    [
        (b"", 415, "invalid-image", "0 bytes"),
        (b"no picture", 415, "invalid-image", "the 10 bytes are not"),
        (_photo()[:-60], 415, "invalid-image", "the image cannot be decoded"),
        (png_bomb(60_000, 60_000), 413, "image-too-large", "over the limit of 100,000,000 pixels"),
    ],
    ids=["empty", "garbage", "truncated", "bomb"],
)
async def test_an_image_that_cannot_be_used_is_refused(
    client: httpx.AsyncClient, data: bytes, status: int, slug: str, says: str
) -> None:
    assert says in _refused(await client.post("/embed/image", content=data), status, slug)


async def test_the_limits_are_settings(store: ArtifactStore) -> None:
    limits: dict[str, Any] = {
        "max_texts": 2,
        "max_text_chars": 5,
        "max_pixels": 100,
        "max_candidates": 1,
        "max_body_bytes": 20_000,
    }
    async with _service(store.root, **limits) as client:
        post = client.post
        assert "limit is 2" in _refused(await post("/embed/text", json={"texts": ["a"] * 3}), 422, "invalid-request")
        assert "limit of 5" in _refused(await post("/embed/text", json={"texts": ["aaaaaa"]}), 422, "invalid-request")
        assert "limit of 100 " in _refused(await post("/embed/image", content=_photo()), 413, "image-too-large")
        large = await post("/embed/image", content=bytes(20_001))
        assert "limit of 20000 bytes" in _refused(large, 413, "body-too-large")


async def test_rerank_bodies_that_make_no_sense_are_refused(client: httpx.AsyncClient, engine: Engine) -> None:
    text, images = engine.embed_texts(TEXTS[:1]).tokens, _images(engine, 2)
    whole = {**tokens.to_tensors(text, "query_"), **tokens.to_tensors(images)}
    nan = whole["scales"].copy()
    nan[0] = np.nan
    lengths = whole["lengths"] + 1
    bodies = {
        "not a tensor message": b"not tensors",
        "NaN or infinity": wire.pack({**whole, "scales": nan}),
        "lengths summing to": wire.pack({**whole, "lengths": lengths}),
        "no tensor 'query_lengths'": wire.pack(tokens.to_tensors(images)),
        "1 queries with 0 candidates": _rerank_body(text, []),
        "2 queries with 2 candidates": _rerank_body(text * 2, images),
        "0 queries with 2 candidates": _rerank_body([], images),
        "1 queries with 1001 candidates": _rerank_body(text, images[:1] * 1001),
        "an image has 5 tokens": _rerank_body(text, text),
        "codes": wire.pack({**whole, "codes": whole["codes"][:, :8]}),
    }
    for says, body in bodies.items():
        response = await client.post("/rerank", params={"query": "text"}, content=body)
        assert says in _refused(response, 422, "invalid-request")
    response = await client.post("/rerank", params={"query": "sound"}, content=_rerank_body(text, images))
    assert "query" in _refused(response, 422, "invalid-request")
    response = await client.post("/rerank", params={"query": "text"}, content=_rerank_body(text, images))
    assert len(_message(response)[0]["logits"]) == 2  # nothing was lost


async def test_a_version_that_is_not_loaded_is_refused(client: httpx.AsyncClient, engine: Engine) -> None:
    body = _rerank_body(engine.embed_texts(TEXTS[:1]).tokens, _images(engine, 1))
    for response in (
        await client.post("/embed/text", json={"texts": ["a dog"], "model": "tiny/9"}),
        await client.post("/embed/image", params={"model": "tiny/9"}, content=_photo()),
        await client.post("/rerank", params={"query": "text", "model": "tiny/9"}, content=body),
    ):
        assert "version tiny/9 is not loaded here" in _refused(response, 409, "unknown-version")


async def test_a_model_without_reranker_embeds_and_says_that_it_cannot_rerank(
    store: ArtifactStore, engine: Engine
) -> None:
    store.activate(PLAIN, None)
    body = _rerank_body(engine.embed_texts(TEXTS[:1]).tokens, _images(engine, 1))
    async with _service(store.root) as client:
        _message(await client.post("/embed/text", json={"texts": ["a dog"], "tokens": True}))
        response = await client.post("/rerank", params={"query": "text"}, content=body)
        assert "tiny/3 was published without a reranker" in _refused(response, 409, "no-reranker")
        assert [model["has_reranker"] for model in (await client.get("/status")).json()["models"]] == [False]


async def test_an_empty_store_is_not_ready_and_says_what_to_do(tiny_model: Path, tmp_path: Path) -> None:
    async with _service(tmp_path / "none", ready=False) as client:
        problem = f"no model is published in {tmp_path / 'none'}: run diptych publish (or diptych up)"
        await _until(client, lambda status: status["problem"] == problem)
        ready = await client.get("/health/ready")
        assert (ready.status_code, ready.json()["problems"]) == (503, [problem])
        detail = _refused(await client.post("/embed/text", json={"texts": ["a dog"]}), 503, "not-ready")
        assert detail == problem
        store = ArtifactStore(tmp_path / "none")
        store.publish(tiny_model)
        store.activate(ONE, None)
        await _until(client, lambda status: status["current"] == "tiny/1")
        assert (await client.get("/health/ready")).json() == {"ready": True, "problems": []}


async def test_the_status_describes_what_is_loaded(client: httpx.AsyncClient, engine: Engine) -> None:
    status = (await client.get("/status")).json()
    assert (status["engine"], status["current"], status["problem"]) == ("onnx cpu", "tiny/1", None)
    (model,) = status["models"]
    assert model["fingerprint"] == engine.manifest.fingerprint
    assert (model["embedding_dim"], model["token_dim"], model["has_reranker"]) == (64, 16, True)


async def test_fifty_callers_at_once_each_get_their_own_answer(store: ArtifactStore, engine: Engine) -> None:
    asked = [f"a {colour} {thing} on {ground}" for colour in ("red", "blue") for thing in ("ball", "car", "tree")
             for ground in ("snow", "ground", "beach", "man", "cat")][:25]  # fmt: skip
    photos = {colour: _photo(colour) for colour in ("red", "green", "blue")}
    colours = [*photos][:3] * 9
    async with _service(store.root) as client:
        answers = await asyncio.gather(
            *(client.post("/embed/text", json={"texts": [text]}) for text in asked),
            *(client.post("/embed/image", content=photos[colour]) for colour in colours[:25]),
        )
    vectors = np.concatenate([_message(answer)[0]["embedding"] for answer in answers])
    stacked = np.stack([pixels(photos[colour], engine.manifest.preprocessing) for colour in colours[:25]])
    expected = np.concatenate([engine.embed_texts(asked).embedding, engine.embed_images(stacked).embedding])
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


async def test_more_images_than_fit_are_refused_and_the_rest_answered(store: ArtifactStore) -> None:
    async with _service(store.root, max_image_queue=3) as client:
        answers = await asyncio.gather(*(client.post("/embed/image", content=_photo()) for _ in range(12)))
        refused = [answer for answer in answers if answer.status_code != 200]
        assert len(refused) == 9
        for answer in refused:
            assert "try again" in _refused(answer, 503, "overloaded")
            assert answer.headers["retry-after"] == "1"
        _message(await client.post("/embed/image", content=_photo()))
