"""What every part of the benchmark works with: load, services, processes of their own, and a place for files."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from benchmarks import collection
from benchmarks.load import LoadGenerator, Outcome, Plan
from benchmarks.memory import megabytes
from benchmarks.questions import Questions
from diptych import shipped
from diptych.guard import Guard
from diptych.ports import free_port
from diptych.programs import Addresses, get_json, services
from diptych.state import StateDirectory
from diptych.supervisor import Supervisor
from shared.artifacts import ArtifactStore

Figures = dict[str, Any]
P = ParamSpec("P")
T = TypeVar("T")

READY_SECONDS = 120.0
CONCURRENCIES = (1, 16, 64)


@dataclass(frozen=True)
class Stack:
    """Running services: their addresses, and their process ids by name."""

    at: Addresses
    supervisor: Supervisor

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{getattr(self.at, name)}"

    @property
    def pids(self) -> dict[str, int]:
        return self.supervisor.pids

    def memory(self) -> dict[str, dict[str, float]]:
        return {name: megabytes(pid) for name, pid in self.pids.items()}


class Bench:
    """``seconds`` a point is measured for, ``work`` an empty folder; ``say`` shows a line, ``show`` a point."""

    def __init__(
        self,
        *,
        seconds: float,
        images: int,
        work: Path,
        load: LoadGenerator,
        say: Callable[[str], None],
        show: Callable[[Figures], None],
    ) -> None:
        self.seconds = seconds
        self.images = images
        self.work = work
        self.say = say
        self._load = load
        self._show = show

    @cached_property
    def photos(self) -> list[bytes]:
        return collection.photos()

    @cached_property
    def state(self) -> StateDirectory:
        """With a store that serves the shipped model and the made collection."""
        self.say(f"making a collection of {self.images:,} photos")
        state = StateDirectory(self.work / "state")
        self.alone(make_collection, state.store, self.work / "collection", self.images)
        return state

    def alone(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of ``work`` in a fresh process."""
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            return process.submit(work, *args, **kwargs).result()

    @contextmanager
    def stack(self, *names: str) -> Iterator[Stack]:
        """These services as ``diptych up`` starts them, ready to answer."""
        state = self.state
        ports: list[int] = []
        for _ in range(5):
            ports.append(free_port(ports))
        at = Addresses("127.0.0.1", *ports)
        with state.locked() as lock, Guard([state.run, state.lock], lock) as guard:
            supervisor = Supervisor(state.logs, guard, self.say)
            programs = [p for p in services(state, at, redis_url=None, examples=None) if p.name in names]
            try:
                for program in programs:
                    supervisor.start(program)
                for program in programs:
                    wait_until_none(program.problem, program.name)
                yield Stack(at, supervisor)
            finally:
                supervisor.stop(15, lambda: False)

    def load(self, plan: Plan) -> Outcome:
        return self._load.run(plan)

    def point(
        self,
        about: Figures,
        url: str,
        questions: Questions,
        concurrency: int,
        *,
        seconds: float | None = None,
        warm_up: float = 1.0,
        timeout: float = 30.0,
        each: int = 1,
        prime: int = 0,
    ) -> Figures:
        """One point of a closed loop, shown and given back with what it is ``about``. Its throughput counts ``each``
        request's queries."""
        seconds = self.seconds if seconds is None else seconds
        plan = Plan(url, questions, seconds, concurrency, warm_up=warm_up, prime=prime, timeout=timeout)
        figures = self.load(plan).figures()
        figures["throughput"] = round(figures["throughput"] * each, 2)
        return self.note({**about, "concurrency": concurrency, **figures})

    def note(self, point: Figures) -> Figures:
        self._show(point)
        return point


def make_collection(store: Path, work: Path, images: int) -> None:
    from shared.engines import open_engine

    model = shipped.model()
    collection.publish(ArtifactStore(store), model, open_engine(model, engine="onnx"), work, images)


@contextmanager
def server(
    command: list[str], health: str, log: Path, env: Mapping[str, str], folder: Path | None = None
) -> Iterator[int]:
    """A program that is no service of ours, run in ``folder``, from when ``health`` answers; gives its process id."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=dict(env), stdin=subprocess.DEVNULL, cwd=folder
        )

    def problem() -> str | None:
        if process.poll() is not None:
            raise RuntimeError(f"{command[0]} ended with {process.returncode}: {log.read_text()[-2000:]}")
        try:
            return None if get_json(health)[0] == 200 else "it is not ready"
        except (OSError, ValueError) as error:
            return str(error)

    try:
        wait_until_none(problem, Path(command[0]).name)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_none(problem: Callable[[], str | None], name: str) -> float:
    """The seconds until there is no problem left. Raises RuntimeError when that takes too long."""
    began = time.perf_counter()
    while (said := problem()) is not None:
        if time.perf_counter() - began > READY_SECONDS:
            raise RuntimeError(f"{name} is not ready after {READY_SECONDS:.0f} s: {said}")
        time.sleep(0.01)
    return time.perf_counter() - began


def python(module: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", module, *map(str, arguments)]
