"""Real processes, each a few lines of Python, under the real supervisor and its guard."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from diptych.guard import Guard
from diptych.supervisor import Program, StopSignal, Supervisor, ending
from tests.support.processes import is_alive
from tests.support.waiting import wait_for

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)


def program(name: str, code: str, **environment: str) -> Program:
    return Program(name, [sys.executable, "-I", "-S", "-c", code], lambda: None, environment)


def is_up(supervisor: Supervisor, name: str) -> bool:
    return supervisor.log(name).read_text() == "up\n"


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    with (tmp_path / "lock").open("w") as lock, Guard([], lock.fileno()) as guard:
        yield guard


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def supervisor(tmp_path: Path, guard: Guard, lines: list[str]) -> Iterator[Supervisor]:
    supervisor = Supervisor(tmp_path, guard, lines.append)
    yield supervisor
    supervisor.stop(0.0, lambda: True)


def test_output_goes_to_the_program_s_own_log_and_the_environment_to_the_program(
    supervisor: Supervisor,
) -> None:
    supervisor.start(program("one", "import os; print(os.environ['WORD'])", WORD="hello"))
    wait_for(lambda: supervisor.log("one").read_text() == "hello\n", "its output")


def test_what_dies_is_started_again_and_said(supervisor: Supervisor, lines: list[str]) -> None:
    supervisor.start(program("one", SLEEPER))
    first = supervisor.pids["one"]
    os.kill(first, signal.SIGKILL)
    wait_for(supervisor.tend, "the death to be noticed")
    assert supervisor.deaths("one") == 1
    assert lines == [f"one stopped (killed by SIGKILL); it is started again in 0.5 s. Its log: {supervisor.log('one')}"]
    wait_for(lambda: supervisor.tend() and "one" in supervisor.pids, "a new process")
    assert supervisor.pids["one"] != first


def test_the_pause_grows_with_each_death(supervisor: Supervisor, lines: list[str]) -> None:
    supervisor.start(program("one", "raise SystemExit(3)"))
    wait_for(lambda: supervisor.tend() and supervisor.deaths("one") == 3, "three deaths")
    pauses = [line.split("again in ")[1].split(" s.")[0] for line in lines]
    assert pauses == ["0.5", "1", "2"]
    assert all("(exit code 3)" in line for line in lines)


def test_stop_ends_all_the_last_started_first(tmp_path: Path, supervisor: Supervisor) -> None:
    log = tmp_path / "order"
    code = textwrap.dedent(f"""
        import os, signal, time
        def end(*_):
            open({str(log)!r}, "a").write(os.environ["NAME"] + " ")
            raise SystemExit
        signal.signal(signal.SIGTERM, end)
        print("up", flush=True)
        time.sleep(600)
    """)
    for name in ("one", "two", "three"):
        supervisor.start(program(name, code, NAME=name))
        wait_for(partial(is_up, supervisor, name), f"{name} to be up")
    pids = supervisor.pids.values()
    supervisor.stop(30.0, lambda: False)
    assert log.read_text() == "three two one "
    assert not any(is_alive(pid) for pid in pids)


@pytest.mark.parametrize(("patience", "impatient"), [(0.2, False), (600.0, True)])
def test_what_ignores_sigterm_is_killed(supervisor: Supervisor, patience: float, impatient: bool) -> None:
    supervisor.start(program("one", STUBBORN))
    wait_for(partial(is_up, supervisor, "one"), "it to be up")
    pid = supervisor.pids["one"]
    supervisor.stop(patience, lambda: impatient)
    assert not is_alive(pid)


def test_a_program_that_is_not_there_is_an_error(supervisor: Supervisor) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        supervisor.start(Program("one", ["/no-such-program"], lambda: None))


def test_the_guard_stops_what_a_killed_supervisor_leaves_and_removes_its_files(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "socket").touch()
    code = textwrap.dedent(f"""
        import sys, time
        from pathlib import Path
        from diptych.guard import Guard
        from diptych.supervisor import Program, Supervisor
        lock = Path({str(tmp_path / "lock")!r})
        with lock.open("w") as held:
            guard = Guard([Path({str(run)!r}), lock], held.fileno())
            supervisor = Supervisor(Path({str(tmp_path)!r}), guard, print)
            for name, code in (("one", {SLEEPER!r}), ("two", {SLEEPER!r})):
                supervisor.start(Program(name, [sys.executable, "-c", code], lambda: None))
            print(*supervisor.pids.values(), flush=True)
            time.sleep(600)
    """)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 2
        assert all(is_alive(pid) for pid in pids)
        process.kill()
    wait_for(lambda: not any(is_alive(pid) for pid in pids), "the programs to be stopped")
    wait_for(lambda: not run.exists() and not (tmp_path / "lock").exists(), "the files to be removed")


def test_signals_are_noted_and_counted_and_handlers_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal() as stopping:
        assert not stopping
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert stopping
        assert stopping.count == 2
    assert signal.getsignal(signal.SIGTERM) == before


def test_endings_in_words() -> None:
    assert ending(1) == "exit code 1"
    assert ending(-9) == "killed by SIGKILL"
    assert ending(-200) == "killed by signal 200"
