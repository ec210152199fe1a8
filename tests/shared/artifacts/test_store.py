"""The artifact store: versions side by side, one pointer, and nothing half there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shared.artifacts import (
    ArtifactError,
    ArtifactStore,
    FileEntry,
    ModelManifest,
    Ref,
    RefusedError,
    hash_files,
    read_manifest,
    write_manifest,
)
from shared.schemas import Calibration, Scoring
from tests.support.small import files_of_at_most, write_index, write_model, write_photos
from tests.support.waiting import wait_for

ONE, TWO = Ref("small", "1"), Ref("small", "2")
INDEX = Ref("photos", "1")


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_model(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def pair(tmp_path: Path, store: ArtifactStore, model: Path) -> ArtifactStore:
    """A store with small/1, an index of it, and small/2, whose vectors are others."""
    manifest = store.publish(model)
    assert isinstance(manifest, ModelManifest)
    write_photos(tmp_path / "photos", 2)
    write_index(tmp_path / "work", tmp_path / "index", tmp_path / "photos", manifest)
    store.publish(tmp_path / "index")
    write_model(tmp_path / "other", version="2", weights=b"two")
    store.publish(tmp_path / "other")
    return store


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_an_empty_store_has_nothing(store: ArtifactStore) -> None:
    assert store.current() is None
    assert store.published("model") == []
    assert store.next_version("model", "small") == "1"
    with pytest.raises(ArtifactError, match="has no manifest"):
        store.model(ONE)
    assert not store.root.exists()


def test_what_is_published_is_there_whole(store: ArtifactStore, model: Path) -> None:
    published = store.publish(model)
    assert published == store.model(ONE) == read_manifest(model)
    store.verify("model", ONE)
    assert everything(store.path("model", ONE)) == everything(model)
    assert [manifest.ref for manifest in store.published("model")] == ["small/1"]
    assert store.next_version("model", "small") == "2"
    assert everything(store.root) == {f"models/small/1/{name}" for name in everything(model)} | {".lock"}


def test_publishing_again_changes_nothing(store: ArtifactStore, model: Path) -> None:
    first = store.publish(model)
    written = (store.path("model", ONE) / "manifest.json").stat().st_mtime_ns
    manifest = read_manifest(model)
    write_manifest(model, manifest.model_copy(update={"created_at": manifest.created_at.replace(year=2031)}))
    assert store.publish(model) == first
    assert (store.path("model", ONE) / "manifest.json").stat().st_mtime_ns == written


def test_a_version_can_be_given_at_publishing(store: ArtifactStore, model: Path) -> None:
    store.publish(model)
    assert store.publish(model, version="1.1-rc").ref == "small/1.1-rc"
    assert store.model(Ref("small", "1.1-rc")).version == "1.1-rc"


def test_a_version_taken_by_other_files_is_refused(tmp_path: Path, store: ArtifactStore, model: Path) -> None:
    first = store.publish(model)
    write_model(tmp_path / "other", weights=b"two")
    with pytest.raises(RefusedError, match="model small/1 is already published; give it another version"):
        store.publish(tmp_path / "other")
    assert store.model(ONE) == first
    store.verify("model", ONE)


def test_a_version_taken_by_other_facts_about_the_same_files_is_refused(store: ArtifactStore, model: Path) -> None:
    store.publish(model)
    scoring = Scoring(dual=Calibration(scale=9, bias=-1))
    write_manifest(model, read_manifest(model).model_copy(update={"scoring": scoring}))
    with pytest.raises(RefusedError, match="already published"):
        store.publish(model)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda file: file.write_bytes(b"o"), "towers.safetensors has 1 bytes, its manifest says 3"),
        (lambda file: file.write_bytes(b"owe"), "towers.safetensors is not the file that was published"),
        (lambda file: file.unlink(), "towers.safetensors is missing"),
        (lambda file: file.with_name("manifest.json").unlink(), "is not an artifact: it has no manifest.json"),
        (lambda file: file.with_name("manifest.json").write_text('{"kind": "model"'), "is not a manifest"),
        (lambda file: file.with_name("manifest.json").write_bytes(b"\xff\xfe"), "is not a manifest"),
        (lambda file: file.with_name("manifest.json").write_text("{}"), "is not a manifest"),
    ],
)
def test_damage_is_found_at_publishing_and_after(
    store: ArtifactStore, model: Path, damage: Callable[[Path], object], says: str
) -> None:
    store.publish(model)
    damage(model / "towers.safetensors")
    with pytest.raises(ArtifactError, match=says):
        store.publish(model, version="2")
    assert [manifest.ref for manifest in store.published("model")] == ["small/1"]
    damage(store.path("model", ONE) / "towers.safetensors")
    with pytest.raises(ArtifactError, match=says):
        store.verify("model", ONE)


def test_publishing_again_mends_a_damaged_copy(store: ArtifactStore, model: Path) -> None:
    store.publish(model)
    (store.path("model", ONE) / "towers.safetensors").write_bytes(b"o")
    store.publish(model)
    store.verify("model", ONE)


def test_a_damaged_version_does_not_hide_the_others(store: ArtifactStore, model: Path) -> None:
    store.publish(model)
    store.publish(model, version="2")
    (store.path("model", ONE) / "manifest.json").write_text("{")
    assert [manifest.ref for manifest in store.published("model")] == ["small/2"]
    assert store.next_version("model", "small") == "3"


def test_a_version_in_a_folder_of_another_name_is_refused(store: ArtifactStore, model: Path) -> None:
    store.publish(model)
    store.path("model", ONE).rename(store.path("model", TWO))
    with pytest.raises(ArtifactError, match="holds model small/1, not model small/2"):
        store.model(TWO)
    assert store.published("model") == []


def test_a_model_is_not_an_index(pair: ArtifactStore) -> None:
    pair.path("index", INDEX).rename(pair.path("model", Ref("small", "3")))
    with pytest.raises(ArtifactError, match="holds index photos/1, not model small/3"):
        pair.model(Ref("small", "3"))


def test_a_full_disk_leaves_nothing_visible(store: ArtifactStore, tmp_path: Path, model: Path) -> None:
    store.publish(model)
    before = everything(store.root)
    write_model(tmp_path / "large", version="2", weights=bytes(100_000))
    with files_of_at_most(50_000), pytest.raises(ArtifactError, match=r"cannot be written: .*File too large"):
        store.publish(tmp_path / "large")
    assert everything(store.root) == before
    store.publish(tmp_path / "large")
    store.verify("model", TWO)


def test_a_full_disk_leaves_the_pointer_where_it_was(pair: ArtifactStore) -> None:
    first = pair.activate(ONE, INDEX)
    before = everything(pair.root)
    with files_of_at_most(100), pytest.raises(ArtifactError, match="cannot be written"):
        pair.activate(TWO, None)
    assert pair.current() == first
    assert everything(pair.root) == before


def test_publishing_killed_midway_leaves_nothing_visible(store: ArtifactStore, model: Path, tmp_path: Path) -> None:
    # Killed between the manifest's arrival in the hidden folder and the rename that makes the version visible.
    script = """
import sys, time
from pathlib import Path
from shared.artifacts import ArtifactStore, store
def stop(*_):
    print("there", flush=True)
    time.sleep(600)
store.verify_files = lambda directory, manifest: stop() if directory.name.endswith(".partial") else None
ArtifactStore(Path(sys.argv[1])).publish(Path(sys.argv[2]))
"""
    command = [sys.executable, "-c", script, str(store.root), str(model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        assert store.published("model") == []
        process.send_signal(signal.SIGKILL)
    assert any(path.endswith(".partial/manifest.json") for path in everything(store.root))
    assert store.published("model") == []
    assert store.next_version("model", "small") == "1"
    with pytest.raises(ArtifactError, match="has no manifest"):
        store.model(ONE)
    store.publish(model)
    store.verify("model", ONE)
    assert not any(".partial" in path for path in everything(store.root))


def test_readers_see_a_version_only_when_it_is_whole(store: ArtifactStore, tmp_path: Path) -> None:
    write_model(tmp_path / "large", weights=bytes(20_000_000))
    script = (
        "import sys; from pathlib import Path; from shared.artifacts import ArtifactStore; "
        "ArtifactStore(Path(sys.argv[1])).publish(Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", script, str(store.root), str(tmp_path / "large")]
    with subprocess.Popen(command, cwd=Path(__file__).parents[3]) as process:
        wait_for(lambda: bool(store.published("model")), "the model to appear")
        store.verify("model", ONE)
    assert process.returncode == 0


def test_activation_points_at_a_pair(pair: ArtifactStore) -> None:
    chosen = pair.activate(ONE, INDEX)
    assert (chosen.model, chosen.index) == ("small/1", "photos/1")
    assert chosen.fingerprint == pair.model(ONE).fingerprint == pair.index(INDEX).fingerprint
    assert pair.current() == chosen


def test_activating_what_is_current_changes_nothing(pair: ArtifactStore) -> None:
    pair.activate(TWO, None)
    first = pair.activate(ONE, INDEX)
    assert pair.activate(ONE, INDEX) == first
    assert pair.rollback().model == "small/2"


def test_an_index_of_another_model_is_refused(pair: ArtifactStore) -> None:
    chosen = pair.activate(ONE, INDEX)
    with pytest.raises(RefusedError, match=r"photos/1 was built by model small/1 .* not by small/2"):
        pair.activate(TWO, INDEX)
    assert pair.current() == chosen


def test_what_is_not_published_cannot_be_activated(pair: ArtifactStore) -> None:
    for model, index in ((Ref("small", "9"), None), (ONE, Ref("photos", "9"))):
        with pytest.raises(ArtifactError, match="has no manifest"):
            pair.activate(model, index)
    assert pair.current() is None


def test_rollback_goes_back_one_by_one(pair: ArtifactStore) -> None:
    first = pair.activate(ONE, INDEX)
    second = pair.activate(TWO, None)
    pair.activate(ONE, None)
    assert pair.rollback() == second == pair.current()
    assert pair.rollback() == first == pair.current()
    with pytest.raises(RefusedError, match="no earlier deployment"):
        pair.rollback()
    assert pair.current() == first


def test_a_pointer_that_cannot_be_read_is_named(pair: ArtifactStore) -> None:
    pair.pointer.write_text('{"deployments": [')
    with pytest.raises(ArtifactError, match=r"current\.json cannot be understood"):
        pair.current()


def test_prune_keeps_the_newest_and_what_is_in_use(store: ArtifactStore, model: Path) -> None:
    for day in range(1, 6):
        written = datetime(2026, 1, day, tzinfo=UTC)
        write_manifest(model, read_manifest(model).model_copy(update={"created_at": written}))
        store.publish(model, version=str(day))
    store.activate(ONE, None)
    store.activate(TWO, None)
    assert store.prune(1) == ["model small/3", "model small/4"]
    assert [manifest.version for manifest in store.published("model")] == ["1", "2", "5"]
    assert store.rollback().model == "small/1"
    with pytest.raises(RefusedError, match="keep must be at least 1, not 0"):
        store.prune(0)


@pytest.mark.parametrize(
    "text",
    ["", "/", "small", "small/", "/1", "small/1/", "small/1/2", "../x/1", "../1", "small/..", "./1", "small/.", ".a/1",
     "/etc/passwd", "small\\1", "small/1\n", "small/\0", "sm all/1", "ä/1", "x" * 65 + "/1", "x" * 10_000],
)  # fmt: skip
def test_a_text_that_names_no_artifact_is_refused(text: str) -> None:
    with pytest.raises(RefusedError, match="does not name an artifact"):
        Ref.parse(text)


def test_a_ref_is_a_name_and_a_version() -> None:
    assert Ref.parse("flickr8k/1.0-b_2") == Ref("flickr8k", "1.0-b_2")
    assert str(Ref("flickr8k", "1")) == "flickr8k/1"


@pytest.mark.parametrize("outside", [Ref("..", "x"), Ref("../..", "x"), Ref("a", ".."), Ref("/etc", "x"), Ref("", "x")])
def test_no_ref_leads_out_of_the_store(store: ArtifactStore, model: Path, outside: Ref) -> None:
    with pytest.raises(RefusedError):
        store.path("model", outside)
    with pytest.raises(RefusedError):
        store.activate(outside, None)
    with pytest.raises(RefusedError):
        store.publish(model, version=f"../{outside.version}")
    document = json.loads((model / "manifest.json").read_text())
    (model / "manifest.json").write_text(json.dumps({**document, "name": outside.name, "version": outside.version}))
    with pytest.raises(ArtifactError, match="is not a manifest"):
        store.publish(model)


@pytest.mark.parametrize("name", ["../stolen", "/etc/hostname", "a/../../b", ".hidden", "a//b", "", "a/"])
def test_no_file_of_a_manifest_leads_out_of_its_folder(store: ArtifactStore, model: Path, name: str) -> None:
    (model.parent / "stolen").write_text("a secret")
    manifest = read_manifest(model)
    entry = FileEntry(sha256="0" * 64, bytes=8)
    write_manifest(model, manifest.model_copy(update={"files": {**manifest.files, name: entry}}))
    with pytest.raises(ArtifactError, match="is not a manifest"):
        store.publish(model)


def test_files_in_folders_are_published_too(store: ArtifactStore, model: Path) -> None:
    (model / "parts").mkdir()
    (model / "parts" / "one.bin").write_bytes(b"1")
    write_manifest(model, read_manifest(model).model_copy(update={"files": hash_files(model)}))
    store.publish(model)
    assert (store.path("model", ONE) / "parts" / "one.bin").read_bytes() == b"1"
    store.verify("model", ONE)
