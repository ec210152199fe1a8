"""infinity (github.com/michaelfeil/infinity) with the same MiniLM weights, in a virtual environment of its own.

Its ONNX engine is used, which is the quicker of the two that it has for a CPU, which it optimises itself.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.bench import server
from diptych.ports import free_port

NAME = "minilm"
LOCK = Path(__file__).resolve().parents[1] / "infinity.txt"
VENV = Path(".venv-infinity")
_OFFLINE = {
    "INFINITY_ANONYMOUS_USAGE_STATS": "0",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
}


def installed(venv: Path = VENV) -> Path:
    """The environment, made and filled from the lock file where it is not yet. Raises CalledProcessError."""
    stamp = venv / ".installed"
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != digest:
        shutil.rmtree(venv, ignore_errors=True)
        uv = [sys.executable, "-m", "uv"]
        subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, str(venv)], check=True)
        install = [*uv, "pip", "install", "--quiet", "--require-hashes", "--python", str(venv), "-r", str(LOCK)]
        subprocess.run(install, check=True)
        stamp.write_text(digest)
    return venv.absolute()


def exported(venv: Path) -> Path:
    """The folder of MiniLM's weights with an ONNX graph beside them, kept in the environment."""
    from training.pretrained import minilm_folder

    folder = venv / NAME
    if not (folder / "model.onnx").exists():
        shutil.rmtree(folder, ignore_errors=True)
        beside = venv / f"{NAME}.partial"
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(minilm_folder(), beside)
        export = [str(venv / "bin" / "optimum-cli"), "export", "onnx", "--model", str(beside)]
        export += ["--task", "feature-extraction", "--library", "transformers", str(beside)]
        subprocess.run(export, check=True, capture_output=True, env={**os.environ, **_OFFLINE})
        beside.rename(folder)
    return folder


@contextmanager
def serving(log: Path) -> Iterator[tuple[str, int]]:
    """Its address and process id, once it answers."""
    venv = installed()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [str(venv / "bin" / "infinity_emb"), "v2", "--model-id", ".", "--engine", "optimum"]
    command += ["--pooling-method", "mean"]
    command += ["--device", "cpu", "--host", "127.0.0.1", "--port", str(port), "--served-model-name", NAME]
    command += ["--batch-size", "32", "--log-level", "warning"]
    # It looks for the graph under a path relative to where it runs.
    with server(command, f"{url}/health", log, {**os.environ, **_OFFLINE}, folder=exported(venv)) as pid:
        yield url, pid
