from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from diptych.state import StateDirectory, StateInUseError

_HOLD = """
import sys
from pathlib import Path
from diptych.state import StateDirectory
with StateDirectory(Path(sys.argv[1])).locked():
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_run_begins_with_empty_folders_of_its_own_and_keeps_the_rest(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / "deep" / "state")
    with state.locked():
        (state.run / "socket").touch()
        state.store.mkdir()
    with state.locked():
        assert state.store.is_dir()
        assert [path.name for path in state.run.iterdir()] == ["tmp"]
        assert state.lock.read_text() == f"{os.getpid()}\n"


def test_a_second_holder_is_refused_by_name_until_the_first_is_gone(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    command = [sys.executable, "-c", _HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(StateInUseError, match=rf"process {holder.pid}\).*--state"), state.locked():
            pass
        holder.kill()
        holder.wait()
    with state.locked():
        pass


def test_a_lock_file_removed_by_its_holder_is_made_anew(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    with state.locked():
        state.lock.unlink()
        with state.locked():
            assert state.lock.exists()
