"""The index service through its HTTP door, over real indexes of a few photos."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from services.index.app import create
from services.index.settings import IndexSettings
from shared import tokens, wire
from shared.artifacts import ArtifactStore, ModelManifest, Ref
from shared.tokens import TokenFeatures
from tests.support.small import DIM, TOKEN_DIM, item, photo, vectors, write_index, write_model, write_photos

MODEL, OTHER = Ref("small", "1"), Ref("small", "2")
FIRST, SECOND = Ref("photos", "1"), Ref("photos", "2")


class Shelf:
    """A store with two models of unlike vectors; photos/1 has 6 photos and photos/2 has 9, both of small/1."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = ArtifactStore(folder / "store")
        self.root = folder / "photos"
        self.models: list[ModelManifest] = []
        for version, weights in (("1", b"one"), ("2", b"two")):
            self.models.append(write_model(folder / f"model{version}", version=version, weights=weights))
            self.store.publish(folder / f"model{version}")
        for version, n in (("1", 6), ("2", 9)):
            write_photos(self.root, n)
            self.add("photos", version, self.models[0])

    def add(self, name: str, version: str, model: ModelManifest) -> None:
        target = self.folder / f"{name}-{version}"
        write_index(self.folder / f"work-{name}-{version}", target, self.root, model, name=name, version=version)
        self.store.publish(target)

    def settings(self, **changes: Any) -> IndexSettings:
        facts = {"store": self.store.root, "poll_seconds": 0.01, "max_k": 100, "max_results": 1000, **changes}
        return IndexSettings(**facts)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path)
    shelf.store.activate(MODEL, FIRST)
    return shelf


@asynccontextmanager
async def serving(settings: IndexSettings) -> AsyncIterator[httpx.AsyncClient]:
    app = create(settings)
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        yield http


async def until(http: httpx.AsyncClient, **wanted: object) -> dict[str, Any]:
    """Wait for the status to say so."""
    async with asyncio.timeout(60):
        while True:
            status: dict[str, Any] = (await http.get("/status")).json()
            if all(status[key] == value for key, value in wanted.items()):
                return status
            await asyncio.sleep(0.01)


@pytest.fixture
async def http(shelf: Shelf) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(shelf.settings()) as client:
        await until(client, current="photos/1")
        yield client


async def ask(
    http: httpx.AsyncClient, queries: npt.NDArray[np.floating], collection: str = "images", **params: Any
) -> httpx.Response:
    return await http.post(
        "/search", params={"collection": collection, "k": 3, **params}, content=wire.pack({"queries": queries})
    )


def refused(answer: httpx.Response, status: int, slug: str) -> str:
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:diptych:problem:{slug}")
    return str(answer.json()["detail"])


async def test_search_finds_the_nearest_with_what_is_known_of_them(http: httpx.AsyncClient, shelf: Shelf) -> None:
    wanted = [photo(shelf.root, name).item for name in ("2.png", "5.png")]
    answer = await ask(http, np.stack([one.vector for one in wanted if one]))
    assert (answer.status_code, answer.headers["content-type"]) == (200, wire.MEDIA_TYPE)
    tensors, meta = wire.unpack(answer.content)
    assert meta["index"] == "photos/1"
    assert meta["fingerprint"] == shelf.models[0].fingerprint
    assert [line[0] for line in meta["items"]] == [{"id": one.id, **one.metadata} for one in wanted if one]
    assert tensors["scores"].shape == (2, 3)
    assert tensors["scores"][:, 0] == pytest.approx([1, 1], abs=1e-6)
    assert (np.diff(tensors["scores"], axis=1) <= 0).all()
    assert set(tensors) == {"scores"}


async def batched(http: httpx.AsyncClient) -> tuple[float, float]:
    """Calls of FAISS so far, and the queries that they had."""
    lines = dict(line.rsplit(" ", 1) for line in (await http.get("/metrics")).text.splitlines() if line[0] != "#")
    return tuple(float(lines[f"diptych_index_batch_queries_{one}"]) for one in ("count", "sum"))  # type: ignore[return-value]


async def test_searches_that_wait_share_a_call_and_each_gets_its_own_answer(http: httpx.AsyncClient) -> None:
    asked = [(vectors(seed, 1 + seed % 3), 2 if seed % 4 else 3) for seed in range(40)]
    alone = [await ask(http, queries, k=k) for queries, k in asked]
    before = await batched(http)
    *together, faulty = await asyncio.gather(
        *(ask(http, queries, k=k) for queries, k in asked),
        ask(http, np.full((1, DIM), 1e6, np.float32), k=2),
    )
    after = await batched(http)
    assert "over 1000" in refused(faulty, 422, "invalid-request")
    assert after[1] - before[1] == sum(len(queries) for queries, _ in asked) + 1
    assert after[0] - before[0] < len(asked) / 2
    for one, expected in zip(together, alone, strict=True):
        (found, said), (scores, words) = wire.unpack(one.content), wire.unpack(expected.content)
        np.testing.assert_allclose(found["scores"], scores["scores"], atol=1e-6)
        assert said == words


async def test_tokens_come_in_the_order_of_the_results(http: httpx.AsyncClient) -> None:
    tensors, meta = wire.unpack((await ask(http, vectors(1, 2), "captions", tokens=True)).content)
    features = tokens.from_tensors(tensors, dim=TOKEN_DIM)
    found = [about["id"] for line in meta["items"] for about in line]
    assert len(features) == len(found) == 6
    for item_id, feature in zip(found, features, strict=True):
        expected: TokenFeatures = item(item_id).tokens
        assert (feature.codes == expected.codes).all()
        assert (feature.scales == expected.scales).all()


async def test_more_than_there_is_gives_all_there_is(http: httpx.AsyncClient) -> None:
    tensors, meta = wire.unpack((await ask(http, vectors(1, 1), k=100)).content)
    assert tensors["scores"].shape == (1, 6)
    assert len({about["id"] for about in meta["items"][0]}) == 6


@pytest.mark.parametrize("k", [0, -1, 101, 10**9, 10**30, "many", ""])
async def test_k_has_limits(http: httpx.AsyncClient, k: object) -> None:
    assert "query.k" in refused(await ask(http, vectors(1, 1), k=k), 422, "invalid-request")


async def test_many_queries_for_many_results_are_refused(http: httpx.AsyncClient) -> None:
    assert (await ask(http, vectors(1, 10), k=100)).status_code == 200
    detail = refused(await ask(http, vectors(1, 11), k=100), 422, "invalid-request")
    assert detail.startswith("11 queries for 100 results each are over the limit of 1000")


@pytest.mark.parametrize(
    ("queries", "says"),
    [
        (np.full((1, DIM), np.nan, np.float32), "tensor 'queries' holds NaN or infinity"),
        (np.full((1, DIM), np.inf, np.float32), "tensor 'queries' holds NaN or infinity"),
        (np.full((1, DIM), 1e38, np.float32), "unit vectors are needed"),
        (np.ones((1, DIM + 1), np.float32), "float32 of shape anyx8 is needed"),
        (np.ones(DIM, np.float32), "float32 of shape anyx8 is needed"),
        (np.ones((1, DIM)), "is float64"),
    ],
)
async def test_queries_without_a_meaning_are_refused(
    http: httpx.AsyncClient, queries: npt.NDArray[np.floating], says: str
) -> None:
    assert says in refused(await ask(http, queries), 422, "invalid-request")


@pytest.mark.parametrize(
    "body", [b"", b"garbage", b"\xff" * 100, wire.pack({"other": np.ones(3)})], ids=["empty", "text", "bytes", "other"]
)
async def test_garbage_is_refused(http: httpx.AsyncClient, body: bytes) -> None:
    answer = await http.post("/search", params={"collection": "images", "k": 3}, content=body)
    refused(answer, 422, "invalid-request")


async def test_a_body_over_the_limit_is_refused(shelf: Shelf) -> None:
    async with serving(shelf.settings(max_body_bytes=1000)) as http:
        await until(http, current="photos/1")
        refused(await ask(http, vectors(1, 100)), 413, "body-too-large")


async def test_no_queries_have_no_results(http: httpx.AsyncClient) -> None:
    tensors, meta = wire.unpack((await ask(http, np.zeros((0, DIM), np.float32), tokens=True)).content)
    assert (tensors["scores"].shape, meta["items"]) == ((0, 3), [])


async def test_an_unknown_collection_or_version_is_refused(http: httpx.AsyncClient) -> None:
    assert "query.collection" in refused(await ask(http, vectors(1, 1), "sounds"), 422, "invalid-request")
    for index in ("photos/9", "../1", "x"):
        detail = refused(await ask(http, vectors(1, 1), index=index), 409, "unknown-version")
        assert detail == f"version {index} is not loaded here; loaded: ['photos/1']"


async def test_an_item_is_described(http: httpx.AsyncClient, shelf: Shelf) -> None:
    kept = photo(shelf.root, "3.png", ["3.png as it is"])
    assert kept.item is not None
    answer = await http.get(f"/collections/images/items/{kept.image_id}")
    assert answer.json() == {"id": kept.image_id, **kept.item.metadata}
    answer = await http.get(f"/collections/captions/items/{kept.image_id}-0", params={"index": "photos/1"})
    assert answer.json() == {"id": f"{kept.image_id}-0", "caption": "3.png as it is", "image_id": kept.image_id}
    for missing in ("nobody", "..%2f..%2fsecret", "%00"):
        refused(await http.get(f"/collections/images/items/{missing}"), 404, "not-found")
    refused(await http.get("/collections/sounds/items/1"), 422, "invalid-request")


async def test_a_photo_is_handed_out_byte_for_byte(http: httpx.AsyncClient, shelf: Shelf) -> None:
    kept = photo(shelf.root, "3.png")
    answer = await http.get(f"/images/{kept.image_id}/content")
    assert answer.content == (shelf.root / "3.png").read_bytes()
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["etag"].startswith(f'"{kept.image_id}')
    assert answer.headers["cache-control"] == "no-cache"  # an id may be given to another photo


async def test_a_photo_that_is_no_longer_there_is_not_found(
    http: httpx.AsyncClient, shelf: Shelf, tmp_path: Path
) -> None:
    first, second, third = (photo(shelf.root, f"{n}.png").image_id for n in range(3))
    (shelf.root / "0.png").unlink()
    (shelf.root / "1.png").write_bytes((shelf.root / "4.png").read_bytes())
    (tmp_path / "outside.png").write_bytes((shelf.root / "2.png").read_bytes())
    (shelf.root / "2.png").unlink()
    (shelf.root / "2.png").symlink_to(tmp_path / "outside.png")
    assert "0.png is not, or no longer, a file" in refused(await http.get(f"/images/{first}/content"), 404, "not-found")
    assert "has changed since it was indexed" in refused(await http.get(f"/images/{second}/content"), 404, "not-found")
    assert "2.png is not, or no longer, a file" in refused(await http.get(f"/images/{third}/content"), 404, "not-found")
    # The others are not touched by that.
    assert (await http.get(f"/images/{photo(shelf.root, '3.png').image_id}/content")).status_code == 200


@pytest.mark.parametrize("path", ["..%2f..%2fsecret", "../../secret", "%2fetc%2fhostname", "3.png", "%00"])
async def test_only_ids_name_photos(http: httpx.AsyncClient, path: str) -> None:
    refused(await http.get(f"/images/{path}/content"), 404, "not-found")


async def test_photos_may_lie_elsewhere(shelf: Shelf, tmp_path: Path) -> None:
    image_id = photo(shelf.root, "3.png").image_id
    shelf.root.rename(tmp_path / "moved")
    async with serving(shelf.settings(photos=tmp_path / "moved")) as http:
        await until(http, current="photos/1")
        assert (await http.get(f"/images/{image_id}/content")).status_code == 200


EXACT = {"parameters": {}, "recall_at_10": 1.0, "target": 1.0, "queries": "", "build_seconds": 0.0}


async def test_status_says_what_is_loaded(http: httpx.AsyncClient, shelf: Shelf) -> None:
    assert (await http.get("/status")).json() == {
        "current": "photos/1",
        "indexes": [
            {
                "ref": "photos/1",
                "fingerprint": shelf.models[0].fingerprint,
                "embedding_dim": DIM,
                "collections": {"images": 6, "captions": 12},
                "revision": 0,
                "pending": 0,
                "shards": {name: {**EXACT, "kind": "flat"} for name in ("images", "captions")},
            }
        ],
        "problem": None,
    }
    assert (await http.get("/health/ready")).json() == {"ready": True, "problems": []}


async def test_an_empty_store_says_what_to_do(tmp_path: Path) -> None:
    async with serving(IndexSettings(store=tmp_path / "nothing", poll_seconds=0.01)) as http:
        sentence = f"nothing is indexed in {tmp_path / 'nothing'}: run diptych index build (or diptych up)"
        await until(http, problem=sentence)
        answer = await http.get("/health/ready")
        assert (answer.status_code, answer.json()) == (503, {"ready": False, "problems": [sentence]})
        answer = await ask(http, vectors(1, 1))
        assert refused(answer, 503, "not-ready") == sentence
        assert answer.headers["retry-after"] == "1"
        assert (await http.get("/health/live")).status_code == 200


async def test_a_model_without_an_index_is_not_ready(shelf: Shelf) -> None:
    shelf.store.activate(OTHER, None)
    async with serving(shelf.settings()) as http:
        status = await until(http, current=None)
        assert status["indexes"] == []
        assert (await http.get("/health/ready")).status_code == 503


def mismatch(shelf: Shelf) -> None:
    """Point at an index and a model that do not belong together, which the store itself would refuse."""
    pointer = shelf.store.pointer
    pointer.write_text(pointer.read_text().replace("small/1", "small/2").replace("photos/1", "photos/2"))
    text = pointer.read_text()
    pointer.write_text(text.replace(shelf.models[0].fingerprint, shelf.models[1].fingerprint))


async def test_an_index_of_another_model_is_refused_and_said(shelf: Shelf) -> None:
    mismatch(shelf)
    async with serving(shelf.settings()) as http:
        async with asyncio.timeout(60):
            while "cannot be served" not in (answer := await http.get("/health/ready")).json()["problems"][0]:
                await asyncio.sleep(0.01)
        assert answer.status_code == 503
        sentence = answer.json()["problems"][0]
        assert sentence.startswith("photos/2 cannot be served: it was built by model small/1")
        assert "build an index with that model, or roll back" in sentence


async def test_a_mismatch_leaves_the_old_index_serving(http: httpx.AsyncClient, shelf: Shelf) -> None:
    mismatch(shelf)
    async with asyncio.timeout(60):
        while (status := (await http.get("/status")).json())["problem"] is None:
            await asyncio.sleep(0.01)
    assert status["current"] == "photos/1"
    assert (await ask(http, vectors(1, 1))).status_code == 200
    assert (await http.get("/health/ready")).status_code == 200


async def test_versions_switch_under_load_without_a_failure(http: httpx.AsyncClient, shelf: Shelf) -> None:
    seen: dict[str, int] = {}
    stop = asyncio.Event()

    async def load(seed: int) -> None:
        while not stop.is_set():
            answer = await ask(http, vectors(seed, 1), k=100, tokens=True)
            assert answer.status_code == 200
            tensors, meta = wire.unpack(answer.content)
            assert len(meta["items"][0]) == tensors["scores"].shape[1] == {"photos/1": 6, "photos/2": 9}[meta["index"]]
            seen[meta["index"]] = seen.get(meta["index"], 0) + 1

    async with asyncio.TaskGroup() as group:
        for seed in range(4):
            group.create_task(load(seed))
        for ref in (SECOND, FIRST, SECOND):
            shelf.store.activate(MODEL, ref)
            await until(http, current=str(ref))
            count = seen.get(str(ref), 0)
            while seen.get(str(ref), 0) < count + 8:
                await asyncio.sleep(0.01)
        stop.set()
    assert set(seen) == {"photos/1", "photos/2"}
    # Who asked for the old one by name is still answered by it.
    _, meta = wire.unpack((await ask(http, vectors(1, 1), index="photos/1")).content)
    assert meta["index"] == "photos/1"


async def test_metrics_count_items_and_searches(http: httpx.AsyncClient) -> None:
    await ask(http, vectors(1, 1), "captions")
    text = (await http.get("/metrics")).text
    assert 'diptych_index_items{collection="images"} 6.0' in text
    assert 'diptych_index_items{collection="captions"} 12.0' in text
    assert 'diptych_index_search_seconds_count{collection="captions"}' in text
    assert 'route="/search",service="index"' in text


async def test_what_the_model_made_of_items_is_handed_out(http: httpx.AsyncClient, shelf: Shelf) -> None:
    wanted = [one for name in ("5.png", "2.png") if (one := photo(shelf.root, name).item)]
    asked = {"ids": [one.id for one in wanted]}
    tensors, meta = wire.unpack((await http.post("/collections/images/embeddings", json=asked)).content)
    assert tensors["embedding"] == pytest.approx(np.stack([one.vector for one in wanted]))
    assert (set(tensors), meta["fingerprint"]) == ({"embedding"}, shelf.models[0].fingerprint)
    answer = await http.post("/collections/images/embeddings", params={"tokens": True}, json=asked)
    for one, features in zip(wanted, tokens.from_tensors(wire.unpack(answer.content)[0]), strict=True):
        assert (features.codes == one.tokens.codes).all()
    caption = f"{wanted[0].id}-1"
    answer = await http.post("/collections/captions/embeddings", json={"ids": [caption]})
    assert wire.unpack(answer.content)[0]["embedding"][0] == pytest.approx(item(caption).vector)
    said = refused(await http.post("/collections/images/embeddings", json={"ids": ["nobody"]}), 404, "not-found")
    assert "no item 'nobody'" in said
    refused(await http.post("/collections/images/embeddings", json={"ids": []}), 422, "invalid-request")
    await http.delete(f"/images/{wanted[0].id}")
    refused(await http.post("/collections/images/embeddings", json=asked), 404, "not-found")
    refused(await http.post("/collections/captions/embeddings", json={"ids": [caption]}), 404, "not-found")
