"""``diptych smoke``: a whole first run, unattended: start everything, ask it, stop it, and see that nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from diptych import gallery
from diptych.ports import free_port, is_free
from shared.schemas import ImageToTextResponse, ModelType, TextToImageResponse

_START_SECONDS = 180.0
_STOP_SECONDS = 60.0
_MODEL_TYPES: tuple[ModelType, ...] = ("dual", "cross")


class SmokeError(Exception):
    """Something did not work. Says what."""


def smoke(console: Console) -> None:
    """Run ``diptych up`` on the gallery, in a temporary place and on free ports.

    Raises :class:`SmokeError` at the first thing that is not as it should be.
    """
    with tempfile.TemporaryDirectory(prefix="diptych-smoke-") as name:
        place = Path(name)
        began = time.monotonic()
        with _running(place) as (process, run):
            console.print(f"ready after {time.monotonic() - began:.1f} s", highlight=False)
            ports = [int(url.rsplit(":", 1)[1]) for url in run["urls"].values()]
            _ask(run["urls"]["gateway"], console)
            _look_at_page(run["urls"]["demo"])
            console.print("the page is served", highlight=False)
            process.send_signal(signal.SIGINT)
            code = process.wait(_STOP_SECONDS)
        _expect(code == 0, f"`diptych up` ended with exit code {code} after Ctrl-C")
        _expect_nothing_left(place, run["pids"].values(), ports)
    console.print("stopped; no process and no stray file is left", highlight=False)
    console.print("smoke: all well", style="bold green")


@contextmanager
def _running(place: Path) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
    """``diptych up``, ready, and the record that it keeps of itself."""
    state, home, log = place / "state", place / "home", place / "up.log"
    home.mkdir()
    gateway = free_port()
    command = [sys.executable, "-m", "diptych", "up", "--state", str(state)]
    command += ["--port", str(gateway), "--demo-port", str(free_port({gateway}))]
    # A home of its own shows what would be left behind there.
    environment = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home), "XDG_CONFIG_HOME": str(home)}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
    try:
        deadline = time.monotonic() + _START_SECONDS
        record = state / "run" / "up.json"
        while True:
            run = json.loads(record.read_bytes()) if record.exists() else {}
            if run.get("ready"):
                break
            _expect(process.poll() is None, f"`diptych up` ended before it was ready. It said:\n{_said(log)}")
            _expect(time.monotonic() < deadline, f"not ready after {_START_SECONDS:.0f} s. It said:\n{_said(log)}")
            time.sleep(0.1)
        yield process, run
    except subprocess.TimeoutExpired as error:
        raise SmokeError(f"`diptych up` did not end within {_STOP_SECONDS:.0f} s of Ctrl-C:\n{_said(log)}") from error
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()  # its guard stops the rest
                process.wait()


def _ask(gateway: str, console: Console) -> None:
    """Both endpoints, with both models, in the words of the public API."""
    query, wanted = gallery.EXAMPLES[0], gallery.EXPECTED[0]
    photo = next(photo for photo in gallery.photos() if photo.name == wanted)
    with httpx.Client(base_url=gateway, timeout=30.0, trust_env=False) as http:
        for model_type in _MODEL_TYPES:
            form = {"text": (None, query), "model_type": (None, model_type), "k": (None, "3")}
            found = TextToImageResponse.model_validate(_json(http.post("/text-to-image", files=form)))
            names = [result.image_name for result in found.results]
            _expect(not found.degraded, f"the {model_type} answer to {query!r} is degraded")
            _expect(len(names) == 3, f"asked {model_type} for 3 pictures of {query!r}, got {len(names)}")
            _expect(names[0] == wanted, f"the best picture for {query!r} by {model_type} is {names[0]}, not {wanted}")
            picture = http.get(found.results[0].image_path)
            _expect(picture.content == photo.path.read_bytes(), f"{picture.url} is not the picture {wanted}")
            console.print(f"text to image, {model_type}: {query!r} finds {wanted}", highlight=False, markup=False)

            upload = {"image": (wanted, photo.path.read_bytes())}
            data = {"model_type": model_type, "k": "5"}
            said = ImageToTextResponse.model_validate(_json(http.post("/image-to-text", files=upload, data=data)))
            captions = [result.caption for result in said.results]
            _expect(not said.degraded, f"the {model_type} answer to {wanted} is degraded")
            _expect(len(captions) == 5, f"asked {model_type} for 5 captions of {wanted}, got {len(captions)}")
            own = sum(caption in photo.captions for caption in captions)
            _expect(captions[0] in photo.captions, f"the best caption for {wanted} by {model_type} is {captions[0]!r}")
            console.print(f"image to text, {model_type}: {own} of 5 captions are those of {wanted}", highlight=False)


def _look_at_page(demo: str) -> None:
    with httpx.Client(base_url=demo, timeout=30.0, trust_env=False) as http:
        page = http.get("/")
        _expect(page.status_code == 200 and "Diptych" in page.text, f"{demo} does not serve the page")
        _expect(http.get("/config").status_code == 200, f"{demo} does not serve the page's configuration")


def _expect_nothing_left(place: Path, pids: Any, ports: list[int]) -> None:
    alive = [pid for pid in pids if _is_alive(pid)]
    _expect(not alive, f"processes {alive} are still there after the stop")
    held = [port for port in ports if not is_free("127.0.0.1", port)]
    _expect(not held, f"ports {held} are still taken after the stop")
    state = place / "state"
    stray = sorted({path.name for path in state.iterdir()} - {"store", "gallery", "work", "logs"})
    _expect(not stray, f"the stop left {stray} in the state directory")
    stray = sorted(str(path.relative_to(place)) for path in (place / "home").rglob("*"))
    _expect(not stray, f"the run left {stray} in the home directory")


def _json(response: httpx.Response) -> Any:
    _expect(response.status_code == 200, f"{response.url} answered {response.status_code}: {response.text}")
    return response.json()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _said(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise SmokeError(otherwise)
