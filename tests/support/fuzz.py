"""Schemathesis over the description of every service, against real ones that are started for it."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from diptych import keyring
from shared.http import INTERNAL_HEADER
from tests.support.artifacts import tiny_artifact
from tests.support.stack import SERVICES, Stack
from tests.support.store import prepare

ROOT = Path(__file__).parents[2]
_TOKEN = "between-services"


def stack(directory: Path, store: Path) -> Stack:
    """Services with keys and an internal token, over a copy of the ``store``, for what is thrown at them changes it."""
    shutil.copytree(store, directory / "store")
    key = keyring.create(directory / "keys.json", "fuzzer", ["read", "write", "admin"])
    (directory / "key").write_text(key)
    settings = {"DIPTYCH_INTERNAL_TOKEN": _TOKEN, "DIPTYCH_GATEWAY_API_KEYS": str(directory / "keys.json")}
    return Stack(directory, directory / "store", settings)


def fuzz(stack: Stack, directory: Path, name: str, *, examples: int, seed: int) -> subprocess.CompletedProcess[str]:
    """Throw ``examples`` requests, and those at the borders of what is described, at each route of a service. What
    broke is in the output, with the command that repeats it."""
    secret = f"X-API-Key: {(directory / 'key').read_text()}" if name == "gateway" else f"{INTERNAL_HEADER}: {_TOKEN}"
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(ROOT / "tests/support/fuzz.toml"), "run"]
    options = [f"--max-examples={examples}", f"--seed={seed}", "--no-color", "--continue-on-failure", "--no-shrink"]
    description = f"{stack.url(name)}/openapi.json"
    return subprocess.run(
        [*command, description, "--header", secret, *options],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=500, help="requests for each route")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        tiny_artifact(directory / "model")
        store = prepare(directory / "prepared", directory / "model").store.root
        (directory / "stack").mkdir()
        failed = 0
        with stack(directory / "stack", store) as running:
            for name in SERVICES:
                done = fuzz(running, directory / "stack", name, examples=asked.examples, seed=asked.seed)
                print(done.stdout, done.stderr)
                failed += done.returncode != 0
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
