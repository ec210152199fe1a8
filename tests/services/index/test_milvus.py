"""The index service over an index in Milvus, through its HTTP door."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from services.index.app import create
from services.index.settings import IndexSettings
from shared import tokens, wire
from shared.artifacts import ArtifactStore, ModelManifest, Ref
from tests.support.engines import move_to_milvus
from tests.support.small import TOKEN_DIM, item, photo, write_index, write_model, write_photos


@pytest.fixture
def model(tmp_path: Path) -> ModelManifest:
    return write_model(tmp_path / "model")


@pytest.fixture
def settings(tmp_path: Path, milvus_uri: str, model: ModelManifest) -> IndexSettings:
    store = ArtifactStore(tmp_path / "store")
    store.publish(tmp_path / "model")
    write_photos(tmp_path / "photos", 6)
    write_index(tmp_path / "work", tmp_path / "index", tmp_path / "photos", model)
    move_to_milvus(tmp_path / "index", milvus_uri)
    store.publish(tmp_path / "index")
    store.activate(Ref("small", "1"), Ref("photos", "1"))
    return IndexSettings(store=store.root, poll_seconds=0.05)


@pytest.fixture
async def http(settings: IndexSettings) -> AsyncIterator[httpx.AsyncClient]:
    app = create(settings)
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        async with asyncio.timeout(60):
            while (await http.get("/status")).json()["current"] is None:
                await asyncio.sleep(0.05)
        yield http


def change(model: ModelManifest, photo_id: str, content: str, **about: Any) -> bytes:
    made, caption = item(f"{photo_id} {content}"), item(f"{content} caption")
    tensors: dict[str, wire.Array] = {
        "photo": np.frombuffer(content.encode(), np.uint8),
        "embedding": made.vector[None],
    }
    tensors |= {"captions_embedding": caption.vector[None]}
    tensors |= tokens.to_tensors([made.tokens]) | tokens.to_tensors([caption.tokens], "captions_")
    meta = {"fingerprint": model.fingerprint, "name": f"{photo_id}.png", "captions": [content], **about}
    return wire.pack(tensors, meta)


async def found(http: httpx.AsyncClient, text: str, collection: str = "images", **params: Any) -> list[str]:
    body = wire.pack({"queries": item(text).vector[None]})
    answer = await http.post("/search", params={"collection": collection, "k": 100, **params}, content=body)
    assert answer.status_code == 200, answer.text
    return [one["id"] for one in wire.unpack(answer.content)[1]["items"][0]]


async def test_what_is_put_replaced_and_removed_is_found_so(http: httpx.AsyncClient, model: ModelManifest) -> None:
    first = change(model, "mine", "kite", tags=["sea"], metadata={"year": 2021})
    answer = await http.put("/images/mine", content=first)
    assert (answer.status_code, answer.json()["status"], answer.json()["revision"]) == (200, "created", 1)
    assert (await found(http, "mine kite"))[0] == "mine"
    assert await found(http, "x", tag="sea") == ["mine"]
    assert await found(http, "x", "captions", filter='{"year": {"gt": 2020}}') == ["mine-0"]
    assert (await http.put("/images/mine", content=first)).json()["status"] == "unchanged"
    answer = await http.put("/images/mine", content=change(model, "mine", "boat", metadata={"year": 1999}))
    assert answer.json()["status"] == "replaced"
    assert await found(http, "x", tag="sea") == []
    assert await found(http, "x", filter='{"year": 1999}') == ["mine"]
    status = (await http.get("/status")).json()["indexes"][0]
    assert (status["collections"], status["revision"]) == ({"images": 7, "captions": 13}, 2)
    assert (await http.get("/images/mine/content")).status_code in (404, 200)
    assert (await http.delete("/images/mine")).status_code == 200
    assert "mine" not in await found(http, "mine boat")
    assert (await http.get("/images/mine")).status_code == 404
    assert (await http.get("/status")).json()["indexes"][0]["collections"] == {"images": 6, "captions": 12}


async def test_photos_of_the_index_are_paged_described_and_removed(http: httpx.AsyncClient, tmp_path: Path) -> None:
    ids = sorted(str(photo(tmp_path / "photos", f"{n}.png").image_id) for n in range(6))
    page = (await http.get("/images", params={"limit": 4})).json()["images"]
    assert [one["id"] for one in page] == ids[:4]
    assert len(page[0]["captions"]) == 2
    page = (await http.get("/images", params={"after": ids[3]})).json()["images"]
    assert [one["id"] for one in page] == ids[4:]
    assert (await http.get(f"/images/{ids[0]}/content")).status_code == 200
    await http.delete(f"/images/{ids[0]}")
    page = (await http.get("/images")).json()["images"]
    assert [one["id"] for one in page] == ids[1:]
    assert (await http.get(f"/collections/images/items/{ids[0]}")).status_code == 404


async def test_tokens_and_embeddings_are_handed_out_as_they_were_put_in(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    ids = [str(photo(tmp_path / "photos", f"{n}.png").image_id) for n in (3, 1)]
    answer = await http.post("/collections/images/embeddings", params={"tokens": True}, json={"ids": ids})
    tensors, _ = wire.unpack(answer.content)
    for one, vector, features in zip(
        ids, tensors["embedding"], tokens.from_tensors(tensors, dim=TOKEN_DIM), strict=True
    ):
        assert (vector == item(one).vector).all()
        assert (features.codes == item(one).tokens.codes).all()
        assert (features.scales == item(one).tokens.scales).all()
    body = wire.pack({"queries": item(ids[0]).vector[None]})
    answer = await http.post("/search", params={"collection": "images", "k": 1, "tokens": True}, content=body)
    (features,) = tokens.from_tensors(wire.unpack(answer.content)[0], dim=TOKEN_DIM)
    assert (features.codes == item(ids[0]).tokens.codes).all()


async def test_metadata_that_milvus_cannot_keep_is_refused_and_nothing_is_stored(
    http: httpx.AsyncClient, model: ModelManifest
) -> None:
    many = {"metadata": {"n": list(range(5000))}}
    answer = await http.put("/images/mine", content=change(model, "mine", "kite", **many))
    assert answer.status_code == 422
    assert "tags and values, over 4,096" in answer.json()["detail"]
    assert (await http.get("/images/mine")).status_code == 404


async def test_what_was_stored_while_milvus_was_away_is_found_when_it_is_back(
    http: httpx.AsyncClient, model: ModelManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pymilvus import MilvusClient
    from pymilvus.exceptions import MilvusException

    def away(*_: object, **__: object) -> None:
        raise MilvusException(message="connection refused")

    with monkeypatch.context() as patched:
        patched.setattr(MilvusClient, "upsert", away)
        answer = await http.put("/images/mine", content=change(model, "mine", "kite"))
        assert answer.status_code == 503
        assert answer.json()["type"] == "urn:diptych:problem:neighbour-unavailable"
        assert "the change is stored, but cannot be searched yet" in answer.json()["detail"]
        patched.setattr(MilvusClient, "search", away)
        body = wire.pack({"queries": item("x").vector[None]})
        answer = await http.post("/search", params={"collection": "images", "k": 1}, content=body)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert "cannot search" in answer.json()["detail"]
    async with asyncio.timeout(60):
        while "mine" not in await found(http, "mine kite"):
            await asyncio.sleep(0.05)
