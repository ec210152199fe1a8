"""Photos that come and go while they are searched, through the gateway of a stack of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from typer.testing import CliRunner

from diptych.cli import app
from shared.artifacts import ArtifactStore
from shared.client import Client, DiptychError
from shared.schemas import ModelType
from tests.support.stack import Stack
from tests.support.store import MODELS, Prepared
from tests.support.uploads import NO_PICTURES, PICTURES
from tests.support.waiting import wait_for


@pytest.fixture(scope="module")
def stack(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("collection")
    shutil.copytree(prepared.store.root, folder / "store")
    with Stack(folder / "stack", folder / "store") as stack:
        stack.store = ArtifactStore(folder / "store")  # type: ignore[attr-defined]
        yield stack


@pytest.fixture
def drawn(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A photo that no other test has."""
    path = tmp_path / "drawn.png"
    seed = sum(map(ord, request.node.name))
    Image.effect_mandelbrot((64, 64), (-2 + seed % 7 / 10, -1.5, 1, 1.5), 50 + seed % 50).convert("RGB").save(path)
    return path


def put(http: httpx.Client, photo: Path, image_id: str | None = None, **said: Any) -> httpx.Response:
    with photo.open("rb") as file:
        files = {"image": (photo.name, file)}
        if image_id is None:
            return http.post("/v1/images", files=files, data=said)
        return http.put(f"/v1/images/{image_id}", files=files, data=said)


def captions_of(client: Client, photo: Path) -> set[str]:
    return {found.caption for found in client.image_to_text(photo, k=100).results}


def photos_for(client: Client, text: str) -> set[str | None]:
    return {found.image_id for found in client.text_to_image(text, k=1000).results}


def test_a_photo_can_be_searched_when_it_is_acknowledged_and_is_gone_when_it_is_removed(
    client: Client, http: httpx.Client, drawn: Path
) -> None:
    before = photos_for(client, "a swirl of colours")
    answer = put(
        http, drawn, "swirl", caption=["a swirl of colours", "something drawn"], tag="art", metadata='{"n": 1}'
    )
    assert (answer.status_code, answer.json()["status"]) == (201, "created")
    assert photos_for(client, "a swirl of colours") == before | {"swirl"}
    assert {"a swirl of colours", "something drawn"} <= captions_of(client, drawn)
    assert http.get("/images/swirl").content == drawn.read_bytes()
    assert http.get("/images/swirl/thumbnail").headers["content-type"] == "image/jpeg"
    about = http.get("/v1/images/swirl").json()
    assert (about["captions"], about["tags"], about["metadata"]) == (
        ["a swirl of colours", "something drawn"],
        ["art"],
        {"n": 1},
    )
    assert http.delete("/v1/images/swirl").status_code == 204
    assert photos_for(client, "a swirl of colours") == before
    assert "something drawn" not in captions_of(client, drawn)
    for gone in (http.get("/images/swirl"), http.get("/v1/images/swirl"), http.delete("/v1/images/swirl")):
        assert (gone.status_code, gone.json()["type"]) == (404, "urn:diptych:problem:not-found")


def test_the_same_again_changes_nothing_and_another_replaces(
    client: Client, http: httpx.Client, drawn: Path, tmp_path: Path
) -> None:
    first = put(http, drawn, "mine", caption="the first words")
    again = put(http, drawn, "mine", caption="the first words")
    assert (first.json()["status"], again.status_code, again.json()["status"]) == ("created", 200, "unchanged")
    changed = put(http, drawn, "mine", caption="other words")
    assert changed.json()["status"] == "replaced"
    assert "other words" in captions_of(client, drawn)
    assert "the first words" not in captions_of(client, drawn)
    turned = tmp_path / "turned.png"
    with Image.open(drawn) as image:
        image.rotate(90).save(turned)
    assert put(http, turned, "mine").json()["status"] == "replaced"
    assert http.get("/images/mine").content == turned.read_bytes()


def test_copies_are_reported(http: httpx.Client, drawn: Path, tmp_path: Path) -> None:
    put(http, drawn, "original")
    smaller = tmp_path / "smaller.jpg"
    with Image.open(drawn) as image:
        image.resize((60, 60)).save(smaller, quality=90)
    exact = put(http, drawn, "copy").json()["duplicates"]
    assert ("original", "exact") in {(one["id"], one["kind"]) for one in exact}
    near = {one["id"]: one["kind"] for one in put(http, smaller, "smaller").json()["duplicates"]}
    assert near["original"] == "near"


def test_the_whole_collection_is_listed_page_by_page(client: Client, http: httpx.Client, drawn: Path) -> None:
    put(http, drawn, "listed")
    everything = photos_for(client, "anything")
    seen: list[str] = []
    after = ""
    while after is not None:
        page = http.get("/v1/images", params={"limit": 3, "after": after}).json()
        seen += [image["id"] for image in page["images"]]
        after = page["next"]
    assert seen == sorted(seen)
    assert set(seen) == everything
    assert "listed" in seen


def test_a_removed_photo_of_the_index_stays_away_after_a_restart(
    stack: Stack, client: Client, http: httpx.Client, prepared: Prepared, drawn: Path
) -> None:
    victim = client.text_to_image("a dog", k=1).results[0].image_id
    put(http, drawn, "survivor", caption="what is put in stays")
    assert http.delete(f"/v1/images/{victim}").status_code == 204
    stack.kill("index")
    stack.restart("index")
    assert victim not in photos_for(client, "a dog")
    assert "survivor" in photos_for(client, "a dog")
    assert "what is put in stays" in captions_of(client, drawn)


def test_a_new_model_sees_the_photos_that_were_put_in_before_it(
    stack: Stack, client: Client, http: httpx.Client, prepared: Prepared, drawn: Path
) -> None:
    put(http, drawn, "moving", caption="it moves to the new model")
    store: ArtifactStore = stack.store  # type: ignore[attr-defined]
    store.activate(MODELS[1], prepared.indexes[1])
    wait_for(lambda: client.text_to_image("x", k=1).model_version == "tiny/2", "the new model to answer")
    wait_for(lambda: "moving" in photos_for(client, "it moves"), "the new model to have seen the photo")
    assert "it moves to the new model" in captions_of(client, drawn)
    store.rollback()
    wait_for(lambda: client.text_to_image("x", k=1).model_version == "tiny/1", "the old model to answer")
    assert "moving" in photos_for(client, "it moves")


@pytest.mark.parametrize(
    ("image", "said", "status", "says"),
    [
        (b"", {}, 415, "is empty"),
        (b"not a picture", {}, 415, "not a whole image"),
        (None, {"metadata": "{"}, 422, "metadata: it is not JSON"),
        (None, {"metadata": "[1]"}, 422, "a JSON object is needed, not list"),
        (None, {"metadata": '{"x": NaN}'}, 422, "NaN is no number in JSON"),
        (None, {"metadata": '{"x": "\\ud800"}'}, 422, "metadata"),
        (None, {"metadata": '{"x": "' + "y" * 20_000 + '"}'}, 422, "the limit is 16,384"),
        (None, {"caption": " "}, 422, "caption"),
        (None, {"caption": "x" * 10_001}, 422, "caption"),
        (None, {"caption": ["x"] * 101}, 422, "caption"),
        (None, {"name": "x" * 256}, 422, "name"),
    ],
)
def test_what_cannot_be_stored_is_refused_and_stores_nothing(
    http: httpx.Client, drawn: Path, image: bytes | None, said: dict[str, Any], status: int, says: str
) -> None:
    if image is not None:
        drawn.write_bytes(image)
    answer = put(http, drawn, "refused", **said)
    assert answer.status_code == status, answer.text
    assert says in answer.json()["detail"]
    assert http.get("/v1/images/refused").status_code == 404


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures_of_every_kind_are_stored_and_shown(http: httpx.Client, drawn: Path, kind: str) -> None:
    drawn.write_bytes(PICTURES[kind]())
    assert put(http, drawn, "kept", caption=f"what is {kind}\0").status_code in (200, 201)
    assert http.get("/images/kept").content == drawn.read_bytes()
    small = http.get("/images/kept/thumbnail")
    assert (small.status_code, small.headers["Content-Type"]) == (200, "image/jpeg")
    assert http.delete("/v1/images/kept").status_code == 204


@pytest.mark.parametrize("kind", NO_PICTURES)
def test_what_is_no_picture_is_not_stored(http: httpx.Client, drawn: Path, kind: str) -> None:
    make, status = NO_PICTURES[kind]
    drawn.write_bytes(make())
    answer = put(http, drawn, "refused")
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/problem+json")
    assert http.get("/v1/images/refused").status_code == 404


@pytest.mark.parametrize("image_id", [".hidden", "a%2Fb", "..%2F..%2Fetc", "x" * 129, "a b", "%00"])
def test_an_id_leads_nowhere_else(http: httpx.Client, drawn: Path, image_id: str) -> None:
    assert put(http, drawn, image_id).status_code in (404, 405, 422)


def test_a_folder_is_added_from_the_command_line_and_errors_are_told_by_file(
    stack: Stack, client: Client, tmp_path: Path
) -> None:
    folder = tmp_path / "more"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (40, 30), (60 * number, 90, 30)).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "captions.jsonl").write_text('{"image": "1.png", "captions": ["a plain green picture"]}\n')
    command = ["collection", "add", str(folder), "--tag", "plain", "--gateway", stack.url("gateway")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1
    assert "3 created, 1 failed" in done.output
    assert "broken.png" in done.output
    (folder / "broken.png").unlink()
    again = CliRunner().invoke(app, command)
    assert (again.exit_code, "3 unchanged" in again.output) == (0, True)
    added = [image for image in client.images() if image.tags == ["plain"]]
    assert {image.name for image in added} == {"0.png", "1.png", "2.png"}
    assert ["a plain green picture"] in [image.captions for image in added]
    listed = CliRunner().invoke(app, ["collection", "list", "--gateway", stack.url("gateway")])
    assert all(image.id in listed.output for image in added)
    ids = [image.id for image in added]
    gone = CliRunner().invoke(app, ["collection", "remove", *ids, "nobody", "--gateway", stack.url("gateway")])
    assert (gone.exit_code, "3 removed" in gone.output, "there is no photo nobody" in gone.output) == (1, True, True)
    assert not [image for image in client.images() if image.tags == ["plain"]]


def test_a_backup_is_made_while_it_is_served(stack: Stack, http: httpx.Client, drawn: Path, tmp_path: Path) -> None:
    put(http, drawn, "backed-up")
    store = stack.store.root  # type: ignore[attr-defined]
    command = ["collection", "backup", str(tmp_path / "copy"), "--store", str(store)]
    assert CliRunner().invoke(app, command).exit_code == 0
    refused = CliRunner().invoke(app, ["collection", "restore", str(tmp_path / "copy"), "--store", str(store)])
    assert (refused.exit_code, "stop it first" in refused.output) == (1, True)
    assert drawn.read_bytes() in [path.read_bytes() for path in (tmp_path / "copy").glob("photos/*/*")]


@pytest.mark.parametrize("model_type", ["dual", "cross"])
def test_tags_narrow_a_search_and_as_many_are_found_as_there_are(
    client: Client, http: httpx.Client, tmp_path: Path, model_type: ModelType
) -> None:
    for number in range(6):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (30, 30), (40 * number, 10, 99)).save(path)
        put(http, path, f"tagged-{number}", caption=f"plain {number}", tag=["plain", f"{number % 2}"])
    for tags, expected in ((["plain"], range(6)), (["plain", "1"], (1, 3, 5)), (["plain", "none"], ())):
        found = client.text_to_image("anything at all", 5, model_type, tags=tags).results
        assert len(found) == min(5, len(expected))
        assert {one.image_id for one in found} <= {f"tagged-{number}" for number in expected}
        captions = client.image_to_text(path, 10, model_type, tags=tags).results
        assert {one.caption for one in captions} == {f"plain {number}" for number in expected}
    assert len(client.text_to_image("anything at all", 5, model_type).results) == 5
    for number in range(6):
        client.remove_image(f"tagged-{number}")
    assert client.text_to_image("anything at all", 5, model_type, tags=["plain"]).results == []


@pytest.mark.parametrize("model_type", ["dual", "cross"])
def test_metadata_narrow_a_search_and_as_many_are_found_as_there_are(
    client: Client, http: httpx.Client, tmp_path: Path, model_type: ModelType
) -> None:
    for number in range(6):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (30, 30), (10, 40 * number, 99)).save(path)
        put(http, path, f"dated-{number}", caption=f"of {number}", metadata=f'{{"year": {2000 + number}, "kind": "x"}}')
    cases: list[tuple[dict[str, Any], Iterable[int]]] = [
        ({"kind": "x"}, range(6)),
        ({"year": {"gte": 2002, "lt": 2005}}, (2, 3, 4)),
        ({"year": [2001, 2005], "kind": "x"}, (1, 5)),
        ({"year": 1999}, ()),
    ]
    for where, expected in cases:
        ids, captions = {f"dated-{number}" for number in expected}, {f"of {number}" for number in expected}
        photos = client.text_to_image("anything at all", 10, model_type, filter=where).results
        assert (len(photos), {one.image_id for one in photos}) == (len(ids), ids)
        assert {one.caption for one in client.image_to_text(path, 10, model_type, filter=where).results} == captions
        assert {one.id for one in client.search("anything at all", model_type=model_type, filter=where).results} == ids
        found = client.search(path, target="captions", model_type=model_type, filter=where).results
        assert {one.caption for one in found} == captions
    assert len(client.text_to_image("anything at all", 5, model_type, filter={"kind": "x"}).results) == 5
    assert len(client.text_to_image("anything at all", 10, model_type).results) == 10
    assert client.search("anything at all", tags=["none"], filter={"kind": "x"}).results == []
    with pytest.raises(DiptychError, match=r"filter\.year: a range"):
        client.text_to_image("anything at all", filter={"year": {"over": 2020}})
    for number in range(6):
        client.remove_image(f"dated-{number}")
