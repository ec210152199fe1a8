"""Runs programs as child processes: starts them, restarts what dies, stops all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Self

from diptych.guard import Guard

_BACKOFF_SECONDS = (0.5, 30.0)  # after the first death, and at most
_HEALTHY_SECONDS = 60.0  # after this long a death counts as the first again


class StartError(Exception):
    """A program cannot be brought up. Says which, why, and where its log is."""


class StopSignal:
    """True once SIGINT, SIGTERM or SIGHUP arrived. ``count`` tells a second Ctrl-C from the first."""

    def __init__(self) -> None:
        self.count = 0

    def __bool__(self) -> bool:
        return self.count > 0

    def __enter__(self) -> Self:
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
            numbers.append(signal.SIGHUP)
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1


@dataclass(frozen=True)
class Program:
    """What to run, and how to tell that it is ready: ``problem`` gives a sentence until then, None from then on."""

    name: str
    command: Sequence[str]
    problem: Callable[[], str | None]
    environment: Mapping[str, str] = field(default_factory=dict)
    stdin: bytes = b""


class Child:
    """A running program, leader of its own process group, so that a terminal's Ctrl-C reaches only the supervisor."""

    def __init__(self, program: Program, log: Path | None, guard: Guard) -> None:
        """With a ``log`` its output is appended there; without one it speaks to our terminal."""
        self.program = program
        self.started_at = time.monotonic()
        self._guard = guard
        output = log.open("ab") if log else None
        try:
            self._process = subprocess.Popen(
                program.command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env={**os.environ, **program.environment},
                start_new_session=True,
            )
        finally:
            if output:
                output.close()
        guard.watch(self.pid)
        assert self._process.stdin is not None
        with suppress(BrokenPipeError), self._process.stdin as stdin:  # it may be gone already; that is noticed later
            stdin.write(program.stdin)

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_code(self) -> int | None:
        """None while it runs; afterwards its exit code, or minus the signal that ended it."""
        code = self._process.poll()
        if code is not None:
            self._guard.forget(self.pid)
        return code

    def send(self, number: int) -> None:
        if self._process.poll() is None:
            os.killpg(self.pid, number)

    def stop(self, patience_seconds: float, impatient: Callable[[], bool]) -> None:
        """SIGTERM, then SIGKILL once the patience is over or somebody is impatient."""
        self.send(signal.SIGTERM)
        deadline = time.monotonic() + patience_seconds
        while self.exit_code() is None:
            if time.monotonic() > deadline or impatient():
                self.send(signal.SIGKILL)
                self._process.wait()
            time.sleep(0.02)


class Supervisor:
    """Keeps programs running. Call :meth:`tend` a few times a second; stop with :meth:`stop`."""

    def __init__(self, logs: Path, guard: Guard, say: Callable[[str], None]) -> None:
        self._logs = logs
        self._guard = guard
        self._say = say
        self._children: dict[str, Child] = {}
        self._restarts: dict[str, tuple[float, Program]] = {}
        self._deaths: dict[str, int] = {}

    def log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def start(self, program: Program) -> None:
        self._children[program.name] = Child(program, self.log(program.name), self._guard)

    @property
    def pids(self) -> dict[str, int]:
        return {name: child.pid for name, child in self._children.items()}

    def deaths(self, name: str) -> int:
        """How often a program died, without having been well for long in between."""
        return self._deaths.get(name, 0)

    def tend(self) -> bool:
        """Restart what died, each time after a longer pause. Returns whether a process came or went."""
        changed = False
        now = time.monotonic()
        for name, child in list(self._children.items()):
            code = child.exit_code()
            if code is None:
                continue
            changed = True
            del self._children[name]
            deaths = 1 if now - child.started_at > _HEALTHY_SECONDS else self.deaths(name) + 1
            self._deaths[name] = deaths
            first, most = _BACKOFF_SECONDS
            pause = min(first * 2 ** (deaths - 1), most)
            self._restarts[name] = (now + pause, child.program)
            self._say(f"{name} stopped ({ending(code)}); it is started again in {pause:g} s. Its log: {self.log(name)}")
        for name, (at, program) in list(self._restarts.items()):
            if now >= at:
                del self._restarts[name]
                self.start(program)
                changed = True
        return changed

    def stop(self, patience_seconds: float, impatient: Callable[[], bool]) -> None:
        """Stop all, the last started first."""
        self._restarts.clear()
        for name in reversed(list(self._children)):
            self._children.pop(name).stop(patience_seconds, impatient)


def ending(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
