"""From the start of a process to the answer that it is ready: each service, and ``diptych up`` as a whole."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import time
from pathlib import Path

from benchmarks.bench import READY_SECONDS, Bench, Figures, python, wait_until_none
from benchmarks.memory import megabytes
from diptych.guard import Guard
from diptych.ports import free_port
from diptych.programs import Addresses, services
from diptych.supervisor import Child

TIMES = 3


def measure(bench: Bench) -> Figures:
    starts = {name: round(statistics.median(found), 3) for name, found in _services(bench).items()}
    first, _ = _up(bench.work / "up")
    again, memory = _up(bench.work / "up")
    return {
        "images": bench.images,
        "times": TIMES,
        "service_seconds": starts,
        "up_first_seconds": first,
        "up_again_seconds": again,
        "up_memory": memory,
    }


def _services(bench: Bench) -> dict[str, list[float]]:
    """Each is started anew while the others run."""
    state = bench.state
    ports: list[int] = []
    for _ in range(5):
        ports.append(free_port(ports))
    found: dict[str, list[float]] = {}
    with state.locked() as lock, Guard([state.run, state.lock], lock) as guard:
        programs = services(state, Addresses("127.0.0.1", *ports), redis_url=None, examples=None)
        running: dict[str, Child] = {}
        try:
            for program in programs:
                for _ in range(TIMES):
                    if program.name in running:
                        running.pop(program.name).stop(15, lambda: False)
                    running[program.name] = Child(program, state.logs / f"{program.name}.log", guard)
                    seconds = wait_until_none(program.problem, program.name)
                    found.setdefault(program.name, []).append(seconds)
                    bench.say(f"start: {program.name} {seconds:.2f} s")
        finally:
            for child in reversed(list(running.values())):
                child.stop(15, lambda: False)
    return found


def _up(state: Path) -> tuple[float, dict[str, dict[str, float]]]:
    """``diptych up`` on the gallery: seconds until it says that it is ready, and the memory of its processes."""
    record = state / "run" / "up.json"
    gateway = free_port()
    command = [*python("diptych", "up", "--state", state), "--port", str(gateway)]
    command += ["--demo-port", str(free_port({gateway}))]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, env=os.environ)
    try:
        while not record.exists() or not (run := json.loads(record.read_bytes()))["ready"]:
            if process.poll() is not None or time.perf_counter() - began > READY_SECONDS:
                raise RuntimeError(f"diptych up is not ready after {READY_SECONDS:.0f} s, or ended")
            time.sleep(0.01)
        seconds = round(time.perf_counter() - began, 2)
        memory = {name: megabytes(pid) for name, pid in {"up": process.pid, **run["pids"]}.items()}
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
    return seconds, memory
