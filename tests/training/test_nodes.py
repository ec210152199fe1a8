"""Two nodes under ``torchrun``, which share no folder, train the model that one node's two processes train."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.stack import ROOT
from training.trainer import BEST, LAST, LOG

OPTIONS = ["--image-backbone", "test_efficientnet", "--image-weights", "none", "--image-size", "64", "--text", "gru"]
OPTIONS += ["--train-blocks", "0", "--embed-dim", "32", "--head-epochs", "2", "--batch-size", "8"]
OPTIONS += ["--epochs", "1", "--warmup", "2", "--device", "cpu"]


def start(data: Path, out: Path, *launch: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", *launch, "-m", "diptych", "train", "dual"]
    return subprocess.Popen(
        [*command, "--data", str(data), "--out", str(out), *OPTIONS],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(*started: subprocess.Popen[str]) -> None:
    said = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0] * len(started), "\n".join(said)


def result(out: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    last = json.loads((out / LOG).read_text().splitlines()[-1])
    del last["time"]
    return last, torch.load(out / BEST, weights_only=True)["model"]


@pytest.mark.timeout(600)
def test_two_nodes_train_what_one_with_two_processes_trains(
    drawn_photos: Path, tmp_path: Path, free_tcp_port: int
) -> None:
    nodes = [
        ["--nnodes=2", f"--node_rank={rank}", "--nproc-per-node=1", f"--rdzv_endpoint=127.0.0.1:{free_tcp_port}"]
        for rank in range(2)
    ]
    ended(
        start(drawn_photos, tmp_path / "one", "--standalone", "--nproc-per-node=2"),
        *(start(drawn_photos, tmp_path / f"node {rank}", *launch) for rank, launch in enumerate(nodes)),
    )
    (figures, weights), (expected, expected_weights) = result(tmp_path / "node 0"), result(tmp_path / "one")
    assert figures == pytest.approx(expected)
    assert weights.keys() == expected_weights.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected_weights[name])
    # The other node has its photos, and neither checkpoints nor logs.
    assert not any((tmp_path / "node 1" / name).exists() for name in (LAST, BEST, LOG))
