"""``diptych up``: everything on one machine, under one process, from nothing to a page that answers."""

from __future__ import annotations

import json
import time
from pathlib import Path

from rich.console import Console

from diptych import gallery, shipped
from diptych.collection import Collection, CollectionError, choose, lay_out
from diptych.gallery import GalleryError
from diptych.guard import Guard
from diptych.ports import PortTakenError, free_port, is_free
from diptych.programs import Addresses, index_build, models, services
from diptych.state import StateDirectory, StateInUseError
from diptych.supervisor import Child, Program, StartError, StopSignal, Supervisor, ending
from shared.artifacts import ArtifactError, ArtifactStore, Ref

EXPECTED_ERRORS = (
    ArtifactError,
    CollectionError,
    GalleryError,
    OSError,
    PortTakenError,
    StartError,
    StateInUseError,
)

_READY_SECONDS = 120.0
_PATIENCE_SECONDS = 15.0  # the services' own limit for finishing requests is 10 s
_MAX_DEATHS = 3  # of a program that was never ready
_TICK_SECONDS = 0.1


def up(
    *,
    photos: Path | None = None,
    flickr8k: Path | None = None,
    state: Path = Path(".diptych"),
    host: str = "127.0.0.1",
    gateway_port: int = 8000,
    demo_port: int = 7860,
    encoder_port: int | None = None,
    index_port: int | None = None,
    encoders: int = 1,
    redis_url: str | None = None,
    console: Console,
) -> None:
    """Serve a folder of photos, a copy of Flickr8k, or the gallery that comes with Diptych, until told to stop.

    ``encoder_port``, of the first of ``encoders``, and ``index_port`` default to free ones, ``redis_url`` to a server
    of our own. Everything is kept in ``state``. Returns after SIGINT, SIGTERM or SIGHUP with nothing left running.
    Raises one of :data:`EXPECTED_ERRORS` when it cannot begin or cannot go on.
    """
    began = time.monotonic()
    directory = StateDirectory(state.resolve())
    collection = choose(photos, flickr8k, directory.gallery)
    with (
        StopSignal() as stopping,
        directory.locked() as lock,
        Guard([directory.run, directory.lock], lock) as guard,
    ):
        at = _addresses(host, gateway_port, demo_port, encoder_port, index_port, encoders)
        if collection.folder == directory.gallery:
            lay_out(gallery.photos(), directory.gallery)
        _publish_shipped(ArtifactStore(directory.store), console)
        supervisor = Supervisor(directory.logs, guard, lambda line: _say(console, line))
        run = _Run(directory, at, collection, supervisor, guard, stopping, console)
        try:
            run.bring_up(services(directory, at, redis_url=redis_url, examples=collection.examples))
            if not stopping:
                run.announce(time.monotonic() - began)
            while not stopping:
                run.tend()
        finally:
            count = stopping.count
            if count:
                _say(console, "stopping …")
            supervisor.stop(_PATIENCE_SECONDS, lambda: stopping.count > max(count, 1))
    _say(console, "stopped; nothing is left running")


class _Run:
    """One run of all programs."""

    def __init__(
        self,
        directory: StateDirectory,
        at: Addresses,
        collection: Collection,
        supervisor: Supervisor,
        guard: Guard,
        stopping: StopSignal,
        console: Console,
    ) -> None:
        self._directory = directory
        self._at = at
        self._collection = collection
        self._supervisor = supervisor
        self._guard = guard
        self._stopping = stopping
        self._console = console

    def tend(self) -> None:
        """One turn of keeping everything running."""
        if self._supervisor.tend():
            self._record(ready=True)
        time.sleep(_TICK_SECONDS)

    def bring_up(self, programs: list[Program]) -> None:
        """Start all programs; index the photos while they load; wait until each is ready, or a stop is asked for."""
        for program in programs:
            self._supervisor.start(program)
        self._record(ready=False)
        self._index()
        deadline = time.monotonic() + _READY_SECONDS
        for program in programs:
            while not self._stopping and (problem := program.problem()):
                self._give_up_if_hopeless(program, problem, deadline)
                self._supervisor.tend()
                time.sleep(_TICK_SECONDS)

    def announce(self, seconds: float) -> None:
        served = models(self._at.gateway_url)
        _say(self._console, f"Diptych is ready after {seconds:.1f} s.", style="bold green")
        _say(
            self._console, f"  photos    {self._collection.title} (index {served['index']}, model {served['current']})"
        )
        _say(self._console, f"  page      {self._at.demo_url}")
        _say(self._console, f"  API       {self._at.gateway_url}/docs")
        _say(self._console, f"  metrics   {self._at.gateway_url}/metrics")
        _say(self._console, f"  logs      {self._directory.logs}")
        _say(self._console, "Ctrl-C stops everything.")
        self._record(ready=True)

    def _index(self) -> None:
        """Build what is missing of the index in a process of its own, which shows its progress on our terminal."""
        child = Child(index_build(self._directory, self._collection), None, self._guard)
        try:
            while not self._stopping and (code := child.exit_code()) is None:
                self._supervisor.tend()
                time.sleep(_TICK_SECONDS)
        finally:
            child.stop(_PATIENCE_SECONDS, lambda: self._stopping.count > 1)
        if not self._stopping and code:
            raise StartError(f"{self._collection.title} could not be indexed ({ending(code)}); the reason is above")

    def _give_up_if_hopeless(self, program: Program, problem: str, deadline: float) -> None:
        name, log = program.name, self._supervisor.log(program.name)
        if self._supervisor.deaths(name) >= _MAX_DEATHS:
            raise StartError(f"{name} stops again and again. The end of its log, {log}:\n{_tail(log)}")
        if time.monotonic() > deadline:
            raise StartError(f"{name} is not ready after {_READY_SECONDS:.0f} s: {problem}. Its log: {log}")

    def _record(self, *, ready: bool) -> None:
        """``run/up.json``: for tools and tests, what runs where."""
        urls = {"gateway": self._at.gateway_url, "demo": self._at.demo_url}
        document = {"ready": ready, "urls": urls, "pids": self._supervisor.pids}
        beside = self._directory.run / "up.json.new"
        beside.write_text(json.dumps(document) + "\n", encoding="utf-8")
        beside.replace(self._directory.run / "up.json")


def _addresses(host: str, gateway: int, demo: int, encoder: int | None, index: int | None, encoders: int) -> Addresses:
    """Check the ports that were asked for and choose the others. Raises :class:`PortTakenError`."""
    wanted = {"gateway": (host, gateway, "--port (PORT= with make)"), "demo": (host, demo, "--demo-port (DEMO_PORT=)")}
    for name, port in (("encoder", encoder), ("index", index)):
        if port is not None:
            wanted[name] = ("127.0.0.1", port, f"--{name}-port")
    for name, (address, port, option) in wanted.items():
        if not is_free(address, port):
            raise PortTakenError(
                f"port {port}, which the {name} needs, is taken on {address}: stop what listens there, or choose "
                f"another port with {option}"
            )
    taken = {port for _, port, _ in wanted.values()}
    if len(taken) < len(wanted):
        raise PortTakenError("two services were given the same port; give each its own")
    chosen: list[int] = []
    for port in (encoder, index, *[None] * encoders):
        chosen.append(port if port is not None else free_port(taken | set(chosen)))
    first, index, redis, *more = chosen
    return Addresses(host, gateway, demo, first, index, redis, more_encoders=tuple(more))


def _publish_shipped(store: ArtifactStore, console: Console) -> None:
    """Give a store without a model the one that comes with Diptych."""
    if store.current() is None:
        manifest = store.publish(shipped.model())
        store.activate(Ref.parse(manifest.ref), None)
        _say(console, f"published the model that comes with Diptych: {manifest.ref}")


def _say(console: Console, line: str, style: str | None = None) -> None:
    """A line as it is: a path may well hold what would be markup."""
    console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
