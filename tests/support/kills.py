"""Kills an index service again and again while photos are put in and removed, and looks at what is left each time."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from benchmarks import machine
from diptych.ports import free_port
from shared import tokens, wire
from shared.artifacts import ArtifactStore, ModelManifest, Ref
from tests.support.small import item, vectors, write_index, write_model, write_photos

ROOT = Path(__file__).parents[2]
_IDS = 40
_WRITERS = 8


@dataclass
class Ledger:
    """What each id may hold: the content that was acknowledged last (None: nothing), and what was sent after that."""

    acknowledged: dict[str, bytes | None] = field(default_factory=dict)
    sent: dict[str, list[bytes | None]] = field(default_factory=dict)
    changes: int = 0

    def allows(self, image_id: str, content: bytes | None) -> bool:
        return content in (self.acknowledged.get(image_id), *self.sent.get(image_id, ()))


@dataclass
class Outcome:
    """``lost``: an acknowledged photo that is not there or was altered; ``phantoms``: one that nobody put in, or that
    was removed; ``failed_starts``: the service did not come back."""

    kills: int = 0
    acknowledged: int = 0
    lost: list[str] = field(default_factory=list)
    phantoms: list[str] = field(default_factory=list)
    failed_starts: int = 0
    slowest_start_seconds: float = 0.0


class IndexService:
    """An index service as a process of its own."""

    def __init__(self, store: Path, log: Path) -> None:
        self._log = log
        self._port = free_port()
        outside = {key: value for key, value in os.environ.items() if not key.startswith("DIPTYCH_")}
        own = {"DIPTYCH_STORE": str(store), "DIPTYCH_INDEX_PORT": str(self._port), "PYTHONPATH": str(ROOT)}
        self._env = {**outside, **own, "DIPTYCH_LOG_LEVEL": "warning"}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> bool:
        """True when it is ready, false when it is not within a minute."""
        with self._log.open("ab") as log:
            command = [sys.executable, "-c", "from services.index.app import main; main()"]
            self._process = subprocess.Popen(command, env=self._env, stdout=log, stderr=log, start_new_session=True)
        until = time.monotonic() + 60
        while time.monotonic() < until and self._process.poll() is None:
            try:
                if httpx.get(f"{self.url}/health/ready", timeout=5).status_code == 200:
                    return True
            except httpx.TransportError:
                pass
            time.sleep(0.02)
        return False

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> IndexService:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


@cache
def picture() -> bytes:
    """A small whole PNG; decoders do not mind what follows it."""
    file = io.BytesIO()
    Image.new("RGB", (4, 4), "teal").save(file, "PNG")
    return file.getvalue()


def run(folder: Path, kills: int, seed: int, said: Callable[[str], None] = lambda _: None) -> Outcome:
    """Each round: start, compare with the ledger, write with several writers, kill at a random moment, and sometimes
    leave half a record at the end of the log, as a power cut does."""
    rng = random.Random(seed)
    store = ArtifactStore(folder / "store")
    model = write_model(folder / "model")
    store.publish(folder / "model")
    write_photos(folder / "photos", 5)
    write_index(folder / "work", folder / "index", folder / "photos", model, name="photos", version="1")
    store.publish(folder / "index")
    store.activate(Ref("small", "1"), Ref("photos", "1"))
    ledger, outcome = Ledger(), Outcome()
    base = None
    with IndexService(store.root, folder / "service.log") as service:
        for number in range(kills + 1):
            started = time.monotonic()
            if not service.start():
                outcome.failed_starts += 1
                break
            outcome.slowest_start_seconds = max(outcome.slowest_start_seconds, round(time.monotonic() - started, 2))
            with httpx.Client(base_url=service.url, timeout=60) as http:
                base = base or set(_listed(http))
                _compare(http, ledger, base, outcome)
                if number == kills:
                    break
                before = ledger.changes
                _write_until_killed(service, model, ledger, rng)
                outcome.acknowledged += ledger.changes - before
            outcome.kills += 1
            if rng.random() < 0.5:
                _tear(folder / "store" / "libraries" / "photos" / "library.sqlite-wal", rng)
            said(f"{outcome.kills} kills, {outcome.acknowledged} acknowledged changes, {len(outcome.lost)} lost")
    return outcome


def _write_until_killed(service: IndexService, model: ModelManifest, ledger: Ledger, rng: random.Random) -> None:
    stop, lock = threading.Event(), threading.Lock()
    mine = [[f"photo-{n}" for n in range(_IDS) if n % _WRITERS == writer] for writer in range(_WRITERS)]
    seeds = [rng.random() for _ in range(_WRITERS)]

    def write(writer: int) -> None:
        own = random.Random(seeds[writer])
        with httpx.Client(base_url=service.url, timeout=60) as http:
            while not stop.is_set():
                image_id = own.choice(mine[writer])
                content = None if own.random() < 0.25 else picture() + own.randbytes(own.choice([10, 1000, 100_000]))
                ledger.sent.setdefault(image_id, []).append(content)
                try:
                    answer = _change(http, model, image_id, content)
                except httpx.TransportError:
                    return
                if answer.status_code == 200 or (answer.status_code == 404 and content is None):
                    ledger.acknowledged[image_id] = content
                    ledger.sent[image_id] = []
                    with lock:
                        ledger.changes += 1

    with ThreadPoolExecutor(_WRITERS) as pool:
        writers = [pool.submit(write, writer) for writer in range(_WRITERS)]
        time.sleep(rng.uniform(0.02, 0.6))
        service.kill()
        stop.set()
        for one in writers:
            one.result()


def _change(http: httpx.Client, model: ModelManifest, image_id: str, content: bytes | None) -> httpx.Response:
    if content is None:
        return http.delete(f"/images/{image_id}")
    name = hashlib.sha256(content).hexdigest()
    made = item(name)
    tensors: dict[str, wire.Array] = {
        "photo": np.frombuffer(content, np.uint8),
        "embedding": made.vector[None],
        **tokens.to_tensors([made.tokens]),
        "captions_embedding": vectors(1, 1),
        **tokens.to_tensors([item(f"{name} said").tokens], "captions_"),
    }
    message = wire.pack(tensors, {"fingerprint": model.fingerprint, "name": name, "captions": [f"a {name}"]})
    return http.put(f"/images/{image_id}", content=message)


def _listed(http: httpx.Client) -> list[str]:
    answer = http.get("/images", params={"limit": 1000})
    return [one["id"] for one in answer.json()["images"]]


def _compare(http: httpx.Client, ledger: Ledger, base: set[str], outcome: Outcome) -> None:
    there = set(_listed(http)) - base
    message = wire.pack({"queries": vectors(7, 1)})
    answer = http.post("/search", params={"collection": "images", "k": 1000}, content=message)
    found = {one["id"] for one in wire.unpack(answer.content)[1]["items"][0]} - base
    outcome.lost += [f"{one}: listed, but not found" for one in there - found]
    outcome.phantoms += [f"{one}: found, but not listed" for one in found - there]
    for image_id in {*ledger.acknowledged, *ledger.sent, *there}:
        content = http.get(f"/images/{image_id}/content").content if image_id in there else None
        if not ledger.allows(image_id, content):
            wanted = ledger.acknowledged.get(image_id)
            (outcome.phantoms if wanted is None else outcome.lost).append(f"{image_id} after {outcome.kills} kills")
        ledger.acknowledged[image_id], ledger.sent[image_id] = content, []


def _tear(log: Path, rng: random.Random) -> None:
    if log.exists():
        with log.open("ab") as file:
            file.write(rng.randbytes(rng.randrange(1, 5000)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = run(Path(folder), options.kills, options.seed, lambda line: print(line, flush=True))
    found = {
        "command": f"python -m tests.support.kills --kills {options.kills} --seed {options.seed}",
        "measured": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine.describe(),
        **vars(outcome),
    }
    print(json.dumps(vars(outcome), indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(bool(outcome.lost or outcome.phantoms or outcome.failed_starts))


if __name__ == "__main__":
    main()
