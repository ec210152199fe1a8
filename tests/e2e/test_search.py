"""Both searches through the real services, against an oracle that uses none of them."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import httpx
import numpy as np
import pytest
from PIL import Image
from redis import Redis

from shared.client import AsyncClient, Client, DiptychError
from shared.schemas import ModelType
from shared.scoring import Cut
from tests.support.load import same
from tests.support.oracle import Oracle
from tests.support.stack import Stack
from tests.support.store import SHARED, Prepared
from tests.support.uploads import NO_PICTURES, PICTURES, WHOLE, file, turned

TOLERANCE = 2e-3
COLUMN = {"dual": 0, "cross": 1}


@pytest.fixture(scope="module")
def oracle(tiny_model: Path, prepared: Prepared) -> Oracle:
    return Oracle(tiny_model, prepared)


@pytest.fixture(scope="module", params=["dual", "cross"])
def model_type(request: pytest.FixtureRequest) -> ModelType:
    chosen: Literal["dual", "cross"] = request.param
    return chosen


def assert_ranked(found: Sequence[tuple[str, float]], expected: dict[str, float], k: int) -> None:
    """The k best of ``expected``, each once, best first; where scores are equal but for rounding any order will do."""
    names = [name for name, _ in found]
    assert len(names) == len(set(names)) == min(k, len(expected))
    scores = [score for _, score in found]
    assert scores == sorted(scores, reverse=True)
    assert scores == pytest.approx([expected[name] for name in names], abs=TOLERANCE)
    assert scores == pytest.approx(sorted(expected.values(), reverse=True)[:k], abs=TOLERANCE)


@pytest.mark.parametrize("text", ["a red ball on blue", "the cat", "zebra crossing, Ж 猫 🐕"])
@pytest.mark.parametrize("k", [1, 5, 1000])
def test_photos_for_words(client: Client, oracle: Oracle, text: str, k: int, model_type: ModelType) -> None:
    answer = client.text_to_image(text, k=k, model_type=model_type)
    expected = {image_id: scores[COLUMN[model_type]] for image_id, scores in oracle.images(text).items()}
    assert_ranked([(found.image_id, found.score) for found in answer.results], expected, k)
    assert answer.query == text
    assert (answer.model_type, answer.degraded) == (model_type, False)
    assert (answer.model_version, answer.index_version) == ("tiny/1", "photos/1")
    for found in answer.results:
        assert found.image_name == oracle.names[found.image_id]
        assert found.image_path == f"/images/{found.image_id}"
        assert found.thumbnail_path == f"/images/{found.image_id}/thumbnail"


@pytest.mark.parametrize("k", [1, 20, 1000])
def test_captions_for_a_photo(client: Client, oracle: Oracle, photo: Path, k: int, model_type: ModelType) -> None:
    answer = client.image_to_text(photo, k=k, model_type=model_type)
    expected = {caption: scores[COLUMN[model_type]] for caption, scores in oracle.captions(photo.read_bytes()).items()}
    assert_ranked([(found.caption, found.score) for found in answer.results], expected, k)
    assert answer.query_image == "chelsea.png"
    assert answer.model_type == model_type
    assert all(found.image_id in oracle.names for found in answer.results)
    assert all(found.caption_id.startswith(f"{found.image_id}-") for found in answer.results)


def test_captions_that_many_photos_share_come_once(client: Client, prepared: Prepared, photo: Path) -> None:
    captions = [found.caption for found in client.image_to_text(photo, k=1000).results]
    assert sorted(captions) == sorted(prepared.captions)
    assert set(SHARED) < set(captions)


def test_the_seed_interface(http: httpx.Client, photo: Path) -> None:
    answer = http.post(
        "/text-to-image", files={"text": (None, "a dog"), "model_type": (None, "dual"), "k": (None, "2")}
    )
    assert answer.json()["query"] == "a dog"
    assert len(answer.json()["results"]) == 2
    assert {"image_path", "image_name", "score"} <= answer.json()["results"][0].keys()
    files = {"image": ("my cat.png", photo.read_bytes())}
    answer = http.post("/image-to-text", files=files, data={"model_type": "cross", "k": "2"})
    assert answer.json()["query_image"] == "my cat.png"
    assert len(answer.json()["results"]) == 2
    assert {"caption", "score"} <= answer.json()["results"][0].keys()


def test_defaults(http: httpx.Client) -> None:
    answer = http.post("/text-to-image", data={"text": "a dog"}).json()
    assert (answer["model_type"], len(answer["results"])) == ("dual", 5)


async def test_the_asynchronous_client(stack: Stack, photo: Path) -> None:
    async with AsyncClient(stack.url("gateway"), retries=0) as client:
        assert len((await client.text_to_image("a dog", k=3)).results) == 3
        assert len((await client.image_to_text(photo.read_bytes(), k=3, model_type="cross")).results) == 3
        assert (await client.ready()).ready
        assert (await client.models()).current == "tiny/1"


def test_what_was_asked_before_comes_from_the_cache(client: Client, photo: Path) -> None:
    first, again = (client.text_to_image("a question asked twice", k=4, model_type="cross") for _ in range(2))
    assert (first.cached, again.cached) == (False, True)
    assert first.results == again.results
    assert set(first.timings_ms) == {"cache", "encode", "search", "rerank", "total"}
    assert set(again.timings_ms) == {"cache", "total"}
    # Another k is another answer, but not another embedding.
    other = client.text_to_image("a question asked twice", k=3, model_type="cross")
    assert not other.cached
    assert "encode" not in other.timings_ms
    assert other.results == first.results[:3]
    # A picture is known by its content, not by its name.
    assert not client.image_to_text(photo, k=7).cached
    renamed = client.image_to_text(photo.read_bytes(), k=7)
    assert (renamed.cached, renamed.query_image) == (True, "image")


def test_the_tail_can_be_cut(client: Client, photo: Path, model_type: ModelType) -> None:
    """One ranking in the cache answers every cut of it."""
    for ask in (
        lambda **cut: client.text_to_image("a red ball on blue", 20, model_type, **cut),
        lambda **cut: client.image_to_text(photo, 20, model_type, **cut),
    ):
        everything = ask()
        scores = [found.score for found in everything.results]
        assert everything.left_out == 0
        for cut in (Cut(scores[7]), Cut(1.0), Cut(cutoff="auto"), Cut(scores[3], "auto")):
            answer = ask(min_score=cut.min_score, cutoff=cut.cutoff)
            assert answer.cached
            assert answer.results == everything.results[: cut.kept(np.array(scores))]
            assert answer.left_out == len(scores) - len(answer.results)
        assert ask().results == everything.results


async def test_the_asynchronous_client_cuts_too(stack: Stack, photo: Path) -> None:
    async with AsyncClient(stack.url("gateway"), retries=0) as client:
        assert (await client.text_to_image("a dog", k=3, min_score=1.0)).left_out == 3
        assert (await client.image_to_text(photo, k=3, min_score=1.0)).left_out == 3
        with pytest.raises(DiptychError, match="'nan'"):
            await client.text_to_image("a dog", min_score=float("nan"))


def test_garbage_in_the_cache_is_computed_anew(client: Client, stack: Stack) -> None:
    good = client.text_to_image("a spoilt answer", model_type="cross")
    with Redis.from_url(stack.redis_url) as redis:
        for key in redis.scan_iter():
            redis.set(key, b"\xff garbage")
    time.sleep(0.1)  # what the gateway still has at hand is good
    again = client.text_to_image("a spoilt answer", model_type="cross")
    assert not again.cached
    assert same(again.results, good.results)
    assert client.text_to_image("a spoilt answer", model_type="cross").cached


def test_many_at_once_get_each_their_own_answer(stack: Stack) -> None:
    texts = [f"a {colour} {thing}" for colour in ("red", "blue", "green") for thing in ("ball", "car", "tree", "dog")]
    with Client(stack.url("gateway"), retries=0) as client, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda text: client.text_to_image(text, model_type="cross"), texts * 8))
        alone = {text: client.text_to_image(text, model_type="cross").results for text in texts}
    for text, answer in zip(texts * 8, answers, strict=True):
        assert answer.query == text
        assert same(answer.results, alone[text])


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures_of_every_kind(client: Client, kind: str) -> None:
    assert len(client.image_to_text(PICTURES[kind](), k=2).results) == 2


def test_a_turned_photo_is_looked_at_upright(client: Client) -> None:
    upright, lying = (client.image_to_text(data, k=60).results for data in (file(WHOLE, "JPEG", quality=95), turned()))
    assert {found.caption_id: found.score for found in lying} == pytest.approx(
        {found.caption_id: found.score for found in upright}, abs=0.02
    )


@pytest.mark.parametrize("kind", NO_PICTURES)
def test_what_cannot_be_read_is_refused_in_the_encoder_s_words(client: Client, kind: str) -> None:
    make, status = NO_PICTURES[kind]
    with pytest.raises(DiptychError) as caught:
        client.image_to_text(make())
    assert caught.value.status == status
    assert re.search("image", caught.value.detail)
    assert caught.value.request_id
    assert client.ready().ready


def test_photos_and_thumbnails(client: Client, http: httpx.Client, prepared: Prepared) -> None:
    for found in client.text_to_image("anything", k=1000).results:
        original = (prepared.photos / found.image_name).read_bytes()
        assert client.image(found.image_id) == original
        small = Image.open(io.BytesIO(client.thumbnail(found.image_id, 128)))
        width, height = Image.open(io.BytesIO(original)).size
        assert small.format == "JPEG"
        assert max(small.size) == min(128, max(width, height))
        assert small.width / small.height == pytest.approx(width / height, rel=0.05)
    path = found.thumbnail_path
    webp = http.get(path, headers={"Accept": "image/avif,image/webp,*/*"})
    assert webp.headers["Content-Type"] == "image/webp"
    assert webp.headers["Vary"] == "Accept"
    assert Image.open(io.BytesIO(webp.content)).format == "WEBP"
    assert http.get(path, headers={"Accept": "image/webp"}).content == webp.content


@pytest.mark.parametrize("suffix", ["", "/thumbnail"])
def test_an_unchanged_photo_is_not_sent_again(client: Client, http: httpx.Client, suffix: str) -> None:
    path = client.text_to_image("anything", k=1).results[0].image_path + suffix
    first = http.get(path)
    assert first.headers["X-Content-Type-Options"] == "nosniff"
    etag = first.headers["ETag"]
    for known in (etag, f'"other", W/{etag}', "*"):
        again = http.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", etag)
    assert http.get(path, headers={"If-None-Match": '"other"'}).content == first.content


@pytest.mark.parametrize("image_id", ["0123456789abcdef", "...", "a b", "a?b", "%2e%2e", "x" * 300, "é"])
def test_photos_that_do_not_exist(client: Client, image_id: str) -> None:
    for ask in (client.image, client.thumbnail):
        with pytest.raises(DiptychError) as caught:
            ask(image_id)
        assert caught.value.status == 404


def test_a_photo_whose_file_is_gone_or_spoilt(client: Client, stack: Stack, prepared: Prepared) -> None:
    name = "tree-red.jpg"
    found = next(f for f in client.text_to_image("anything", k=1000).results if f.image_name == name)
    path = prepared.photos / name
    original = path.read_bytes()
    with Redis.from_url(stack.redis_url) as redis:
        redis.flushall()
    try:
        path.write_bytes(b"spoilt")
        with pytest.raises(DiptychError, match="index") as caught:
            client.thumbnail(found.image_id, 512)
        assert caught.value.status == 404
        path.unlink()
        with pytest.raises(DiptychError) as caught:
            client.image(found.image_id)
        assert caught.value.status == 404
    finally:
        path.write_bytes(original)
    assert client.image(found.image_id) == original


def test_what_is_served(client: Client) -> None:
    served = client.models()
    assert (served.current, served.index) == ("tiny/1", "photos/1")
    (model,) = (model for model in served.models if model.ref == served.current)
    (index,) = (index for index in served.indexes if index.ref == served.index)
    assert model.fingerprint == index.fingerprint
    assert index.collections == {"images": 15, "captions": 60}


def test_a_request_s_id_crosses_the_services(http: httpx.Client, stack: Stack) -> None:
    answer = http.post(
        "/text-to-image", data={"text": "follow me", "model_type": "cross"}, headers={"X-Request-ID": "followed-1"}
    )
    assert answer.headers["X-Request-ID"] == "followed-1"
    for name, paths in {
        "gateway": ["/text-to-image"],
        "encoder": ["/embed/text", "/rerank"],
        "index": ["/search"],
    }.items():
        lines = [line for line in stack.log(name).splitlines() if "followed-1" in line]
        assert all(any(f'"{path}"' in line for line in lines) for path in paths)


def test_metrics(http: httpx.Client, client: Client) -> None:
    client.text_to_image("measure me", model_type="cross")
    client.text_to_image("measure me", model_type="cross")
    metrics = http.get("/metrics").text
    for stage in ("cache", "encode", "search", "rerank", "total"):
        assert re.search(rf'diptych_gateway_stage_seconds_count{{stage="{stage}"}} [1-9]', metrics)
    for cache in ("results", "embeddings"):
        assert re.search(rf'diptych_gateway_cache_total{{cache="{cache}",outcome="miss"}} [1-9]', metrics)
    assert re.search(r'diptych_gateway_cache_total{cache="results",outcome="hit"} [1-9]', metrics)
    for neighbour in ("encoder", "index", "redis"):
        assert f'diptych_gateway_neighbour_up{{neighbour="{neighbour}"}} 1.0' in metrics
    assert 'diptych_gateway_pair_info{index="photos/1",model="tiny/1"} 1.0' in metrics
