"""Following the store's pointer."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from shared.artifacts import ArtifactError, ArtifactStore, Deployment, ModelManifest, Ref
from shared.problems import Problem
from shared.watch import VersionWatcher
from tests.support.small import write_model


class Models:
    """A store with small/1, /2 and /3, and a watcher that loads them, checked, as the encoder does."""

    def __init__(self, folder: Path) -> None:
        self.store = ArtifactStore(folder / "store")
        for version in ("1", "2", "3"):
            write_model(folder / version, version=version, weights=version.encode())
            self.store.publish(folder / version)
        self.loads: list[str] = []
        self.may_load = threading.Event()
        self.may_load.set()

    def load(self, deployment: Deployment) -> ModelManifest:
        self.loads.append(deployment.model)
        self.may_load.wait(60)
        self.store.verify("model", Ref.parse(deployment.model))
        return self.store.model(Ref.parse(deployment.model))

    def watcher(self, *, retire: float = 60, retry: float = 60, poll: float = 0.01) -> VersionWatcher[ModelManifest]:
        return VersionWatcher(
            self.store,
            lambda deployment: deployment.model,
            self.load,
            missing="no model here",
            poll_seconds=poll,
            retire_seconds=retire,
            retry_seconds=retry,
        )

    def serve(self, version: str) -> None:
        self.store.activate(Ref("small", version), None)

    def weights(self, version: str) -> Path:
        return self.store.path("model", Ref("small", version)) / "towers.safetensors"


@pytest.fixture
def models(tmp_path: Path) -> Models:
    return Models(tmp_path)


async def test_an_empty_store_is_not_ready(tmp_path: Path, models: Models) -> None:
    watcher = models.watcher()
    await watcher.look()
    assert (watcher.current_ref, watcher.problem, dict(watcher.loaded)) == (None, "no model here", {})
    with pytest.raises(Problem, match="no model here") as caught:
        watcher.get(None)
    assert (caught.value.slug, caught.value.retry_after) == ("not-ready", 1)
    with pytest.raises(Problem) as caught:
        watcher.get("small/1")
    assert caught.value.slug == "unknown-version"


async def test_the_pointer_is_followed_from_the_first_look(models: Models) -> None:
    models.serve("1")
    watcher = models.watcher()
    await watcher.look()
    assert watcher.get(None) == watcher.get("small/1") == ("small/1", models.store.model(Ref("small", "1")))
    assert watcher.problem is None
    await watcher.look()
    assert models.loads == ["small/1"]


async def test_while_the_first_is_loaded_it_says_so_and_not_that_there_is_none(models: Models) -> None:
    watcher = models.watcher()
    with pytest.raises(Problem, match="starting"):
        watcher.get(None)
    models.serve("1")
    models.may_load.clear()
    looking = asyncio.create_task(watcher.look())
    while not models.loads:
        await asyncio.sleep(0.01)
    with pytest.raises(Problem, match="small/1 is being loaded") as caught:
        watcher.get(None)
    assert (caught.value.slug, caught.value.retry_after) == ("not-ready", 1)
    models.may_load.set()
    await looking
    assert watcher.problem is None


async def test_run_notices_what_changes(models: Models) -> None:
    watcher = models.watcher()
    running = asyncio.create_task(watcher.run())
    for version in ("1", "2"):
        models.serve(version)
        async with asyncio.timeout(60):
            while watcher.current_ref != f"small/{version}":
                await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_the_old_goes_on_while_the_new_is_loaded_and_after(models: Models) -> None:
    models.serve("1")
    watcher = models.watcher()
    await watcher.look()
    models.may_load.clear()
    models.serve("2")
    looking = asyncio.create_task(watcher.look())
    while "small/2" not in models.loads:
        await asyncio.sleep(0.01)
    assert watcher.get(None)[0] == "small/1"
    models.may_load.set()
    await looking
    assert watcher.get(None)[0] == "small/2"
    assert watcher.get("small/1")[1].version == "1"


async def test_a_replaced_version_retires_after_its_grace_but_the_last_one_stays(models: Models) -> None:
    """A neighbour may have refused what replaced it; until the next version, both can answer."""
    watcher = models.watcher(retire=0)
    for version in ("1", "2", "3"):
        models.serve(version)
        await watcher.look()
    assert list(watcher.loaded) == ["small/2", "small/3"]
    with pytest.raises(Problem, match=r"version small/1 is not loaded here; loaded: \['small/2', 'small/3'\]"):
        watcher.get("small/1")


async def test_a_refused_version_leaves_the_old_one_serving_and_says_why(models: Models) -> None:
    models.serve("1")
    watcher = models.watcher()
    await watcher.look()
    models.weights("2").write_bytes(b"")
    models.serve("2")
    for _ in range(3):
        await watcher.look()
        assert watcher.get(None)[0] == "small/1"
        assert watcher.problem is not None
        assert watcher.problem.startswith("small/2 cannot be served")
        assert "towers.safetensors has 0 bytes" in watcher.problem
    assert models.loads == ["small/1", "small/2"]
    models.serve("3")
    await watcher.look()
    assert (watcher.current_ref, watcher.problem) == ("small/3", None)


async def test_rolling_back_from_a_refused_version_ends_the_problem(models: Models) -> None:
    models.serve("1")
    watcher = models.watcher()
    await watcher.look()
    models.weights("2").write_bytes(b"")
    models.serve("2")
    await watcher.look()
    models.store.rollback()
    await watcher.look()
    assert (watcher.current_ref, watcher.problem) == ("small/1", None)


async def test_a_refused_version_is_tried_again_and_served_once_it_is_mended(tmp_path: Path, models: Models) -> None:
    models.weights("1").write_bytes(b"")
    models.serve("1")
    watcher = models.watcher(retry=0)
    await watcher.look()
    with pytest.raises(Problem, match="small/1 cannot be served") as caught:
        watcher.get(None)
    assert caught.value.slug == "not-ready"
    models.store.publish(tmp_path / "1")
    await watcher.look()
    assert (watcher.current_ref, watcher.problem) == ("small/1", None)


async def test_rolling_back_within_the_grace_loads_nothing(models: Models) -> None:
    models.serve("1")
    watcher = models.watcher()
    await watcher.look()
    models.serve("2")
    await watcher.look()
    models.store.rollback()
    await watcher.look()
    assert watcher.current_ref == "small/1"
    assert models.loads == ["small/1", "small/2"]
    assert watcher.get("small/2")[1].version == "2"


async def test_rolling_back_past_what_is_kept_loads_the_old_again(models: Models) -> None:
    watcher = models.watcher(retire=0)
    for version in ("1", "2", "3"):
        models.serve(version)
        await watcher.look()
    for _ in range(2):
        models.store.rollback()
        await watcher.look()
    assert watcher.get(None)[1].version == "1"
    assert models.loads == ["small/1", "small/2", "small/3", "small/1"]


async def test_a_damaged_pointer_leaves_what_is_served(models: Models) -> None:
    models.serve("1")
    watcher = models.watcher()
    await watcher.look()
    whole = models.store.pointer.read_text()
    models.store.pointer.write_text(whole[:20])
    await watcher.look()
    assert watcher.get(None)[0] == "small/1"
    assert watcher.problem is not None
    assert "current.json cannot be understood" in watcher.problem
    models.store.pointer.write_text(whole)
    await watcher.look()
    assert watcher.problem is None


async def test_any_error_of_loading_is_a_refusal_and_not_the_end(models: Models) -> None:
    def load(deployment: Deployment) -> str:
        raise MemoryError("no room") if deployment.model == "small/1" else ArtifactError("damaged")

    models.serve("1")
    watcher = VersionWatcher(models.store, lambda it: it.model, load, missing="none", poll_seconds=1, retire_seconds=1)
    await watcher.look()
    assert watcher.problem == "small/1 cannot be served: no room"
    models.serve("2")
    await watcher.look()
    assert watcher.problem == "small/2 cannot be served: damaged"
