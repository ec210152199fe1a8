from __future__ import annotations

import subprocess
import sys


def test_a_whole_first_run_with_the_model_that_ships() -> None:
    command = [sys.executable, "-m", "diptych", "smoke"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert run.returncode == 0, run.stdout + run.stderr
    said = " ".join(run.stdout.split())
    for line in ("text to image, dual:", "text to image, cross:", "image to text, dual:", "image to text, cross:"):
        assert line in said
    assert "no process and no stray file is left" in said
    assert said.endswith("smoke: all well")
