"""The one thing that ``make`` needs and cannot install: a Python."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.stack import ROOT


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A PATH with a shell's tools and no Python."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "make", "dirname", "test", "rm", "sed", "expand"):
        found = shutil.which(name)
        assert found, name
        (tools / name).symlink_to(found)
    return tools


def make(bare: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(bare), "HOME": str(bare)}
    command = [str(bare / "make"), f"VENV={bare.parent / 'venv'}", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_make_alone_lists_what_there_is(bare: Path) -> None:
    listed = make(bare).stdout
    for target in ("demo", "smoke", "test", "check"):
        assert f"  {target} " in listed


def test_no_python_at_all_is_a_sentence(bare: Path) -> None:
    said = make(bare, "demo")
    assert said.returncode != 0
    assert "Diptych needs Python 3.11, 3.12 or 3.13" in said.stderr
    assert "make PYTHON=" in said.stderr
    assert not (bare.parent / "venv").exists()


def test_a_python_that_cannot_make_environments_is_told_apart(bare: Path) -> None:
    stripped = bare / "python3"
    stripped.write_text(f'#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\nexec {sys.executable} "$@"\n')
    stripped.chmod(0o755)
    said = make(bare, "demo").stderr
    assert "python3 cannot make virtual environments" in said
    assert "apt install python3-venv" in said
