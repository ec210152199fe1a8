"""``diptych up`` as a person runs it: the real command, its real services, photos in a folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diptych import Client, DiptychError
from diptych.ports import free_port, is_free
from shared.artifacts import ArtifactStore, Ref
from tests.support.processes import is_alive
from tests.support.waiting import wait_for


class Up:
    """One ``diptych up``."""

    def __init__(self, state: Path, photos: Path, **options: int) -> None:
        self.state = state
        gateway = options.get("port") or free_port()
        demo = free_port({gateway})
        self.log = state.with_suffix(".log")
        command = [sys.executable, "-m", "diptych", "up", "--state", str(state), "--photos", str(photos)]
        command += ["--port", str(gateway), "--demo-port", str(demo)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DIPTYCH_")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    @property
    def record(self) -> dict[str, Any]:
        path = self.state / "run" / "up.json"
        return json.loads(path.read_bytes()) if path.exists() else {}

    @property
    def said(self) -> str:
        """What it printed, as one line, wherever the terminal's width broke it."""
        return " ".join(self.log.read_text().split())

    def wait_ready(self) -> None:
        """Until it says so, or ends: it has a limit of its own."""
        while not self.record.get("ready"):
            assert self.process.poll() is None, self.said
            time.sleep(0.1)

    def end(self) -> int:
        return self.process.wait(60)

    def __enter__(self) -> Up:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()  # the guard stops the rest
        self.process.wait()


def store_with(model: Path, state: Path) -> Path:
    """A state directory in which a model is published already, so that the one that ships is not needed."""
    store = ArtifactStore(state / "store")
    store.activate(Ref.parse(store.publish(model).ref), None)
    return state


def assert_nothing_left(state: Path, record: dict[str, Any]) -> None:
    assert not [name for name, pid in record["pids"].items() if is_alive(pid)]
    assert sorted(path.name for path in state.iterdir()) == ["logs", "store", "work"]
    for url in record["urls"].values():
        assert is_free("127.0.0.1", int(url.rsplit(":", 1)[1]))


@pytest.fixture(scope="module")
def photos(drawn_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn photos, and two files that only look like some."""
    folder = tmp_path_factory.mktemp("photos") / "mine"
    shutil.copytree(drawn_photos, folder)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a photo")
    (folder / "empty.png").touch()
    return folder


@pytest.fixture(scope="module")
def state(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_with(tiny_model, tmp_path_factory.mktemp("up") / "state")


@pytest.fixture(scope="module")
def running(state: Path, photos: Path) -> Iterator[Up]:
    with Up(state, photos) as up:
        up.wait_ready()
        yield up


def test_it_serves_what_it_indexed_and_counts_what_it_could_not_read(running: Up, photos: Path) -> None:
    assert "36 photos, 72 captions" in running.said
    assert "left out 2 files" in running.said
    assert f"page {running.record['urls']['demo']}" in running.said
    with Client(running.record["urls"]["gateway"]) as client:
        for model_type in ("dual", "cross"):
            pictures = client.text_to_image("a red ball", k=40, model_type=model_type)
            assert len(pictures.results) == 36
            assert not pictures.degraded
            captions = client.image_to_text(photos / "ball-red-blue.jpg", k=7, model_type=model_type)
            assert len(captions.results) == 7
            assert not captions.degraded


def test_a_second_one_on_the_same_state_is_refused(running: Up, photos: Path) -> None:
    # The same ports, too: the state is what is said, because changing ports would not help.
    command = [sys.executable, "-m", "diptych", "up", "--state", str(running.state), "--photos", str(photos)]
    for option, name in (("--port", "gateway"), ("--demo-port", "demo")):
        command += [option, running.record["urls"][name].rsplit(":", 1)[1]]
    second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert second.returncode == 1
    said = " ".join(second.stderr.split())
    assert f"another `diptych up` (process {running.process.pid}) works in {running.state}" in said
    assert "--state" in said
    assert running.process.poll() is None


def test_a_taken_port_is_named_before_anything_starts(running: Up, photos: Path, tmp_path: Path) -> None:
    taken = int(running.record["urls"]["gateway"].rsplit(":", 1)[1])
    with Up(tmp_path / "other", photos, port=taken) as up:
        assert up.end() == 1
        assert f"port {taken}, which the gateway needs, is taken" in up.said
        assert "PORT=" in up.said
        assert [path.name for path in up.state.iterdir()] == ["logs"]


@pytest.mark.parametrize("name", ["encoder", "index", "gateway", "redis"])
def test_a_service_that_is_killed_comes_back(running: Up, name: str) -> None:
    before = running.record["pids"][name]
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: running.record["pids"].get(name, before) != before, f"a new {name}")
    assert f"{name} stopped (killed by SIGKILL)" in running.said

    def answers() -> bool:
        with Client(running.record["urls"]["gateway"], retries=0) as client:
            try:
                return len(client.text_to_image(f"a green car after {name}", k=3).results) == 3
            except DiptychError:
                return False

    wait_for(answers, "answers", lambda: running.said)


def test_ctrl_c_leaves_no_process_and_no_stray_file(running: Up) -> None:
    record = running.record
    assert set(record["pids"]) == {"redis", "encoder", "index", "gateway", "demo"}
    running.process.send_signal(signal.SIGINT)
    assert running.end() == 0
    assert "nothing is left running" in running.said
    assert_nothing_left(running.state, record)


def test_a_second_start_reads_nothing_anew_and_survives_nothing_when_killed(
    running: Up, state: Path, photos: Path
) -> None:
    running.end()
    published = sorted((state / "store" / "indexes").glob("*/*"))
    with Up(state, photos) as up:
        up.wait_ready()
        assert sorted((state / "store" / "indexes").glob("*/*")) == published
        record = up.record
        up.process.kill()
        up.end()
        wait_for(lambda: not up.state.joinpath("up.lock").exists(), "the guard to finish")
        assert_nothing_left(state, record)


def test_a_stop_before_it_is_ready_is_a_stop(tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    with Up(store_with(tiny_model, tmp_path / "state"), photos) as up:
        wait_for(lambda: bool(up.record), "it to begin")
        record = up.record
        assert not record["ready"]
        up.process.send_signal(signal.SIGTERM)
        assert up.end() == 0
        assert not [name for name, pid in record["pids"].items() if is_alive(pid)]
        assert not (up.state / "run").exists()


def test_a_folder_without_photos_is_a_sentence(tiny_model: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with Up(store_with(tiny_model, tmp_path / "state"), empty) as up:
        assert up.end() == 1
        assert f"{empty} holds no photos" in up.said
        assert "could not be indexed" in up.said
        assert not (up.state / "run").exists()


def test_a_folder_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with Up(tmp_path / "state", tmp_path / "nowhere") as up:
        assert up.end() == 1
        assert f"{tmp_path / 'nowhere'} is not a folder" in up.said
        assert not up.state.exists()
