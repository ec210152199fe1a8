"""The Ray cluster that a bulk job runs on, this machine where there is no other, and how its cores are shared out."""

from __future__ import annotations

import logging
import os
import warnings
from dataclasses import dataclass
from typing import Any

# Before Ray is imported: it reports its use, and its native parts write to the terminal, unless told not to.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")

import ray
import ray.data

from training.data.captioned import DataError

_OBJECT_STORE_BYTES = 1 << 30  # of a cluster of our own: what is on its way, not what there is
_BLOCK_BYTES = 8 << 20  # what tasks hand on at a time: some fifty decoded photos, which are then committed together
_READER_CPUS = 0.25  # it waits most of the time


@dataclass(frozen=True)
class Share:
    """``engines``, each on ``engine_cpus`` and ``engine_gpus`` and with ``threads``, leave cores for readers."""

    engines: int
    threads: int
    engine_cpus: float
    engine_gpus: float
    reader_cpus: float = _READER_CPUS


def connect(address: str) -> None:
    """Join the cluster at ``address``: ``auto`` is the one that this machine is part of, or else its own cores, which
    is what ``local`` always is. Ray's remarks go to its log files. Raises :class:`DataError`."""
    if not ray.is_initialized():
        try:
            if address == "local" or not _joined(address):
                _start("local", include_dashboard=False, object_store_memory=_OBJECT_STORE_BYTES)
        except (ConnectionError, ValueError, RuntimeError, ImportError, TimeoutError) as error:
            raise DataError(f"no Ray cluster answers at {address}: {error}") from error
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "The minimum number of concurrent actors")  # where there are few photos
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = _BLOCK_BYTES
    # Which of two copies comes first does not depend on who is faster, and a shard is done when its end comes.
    context.execution_options.preserve_order = True


def share_of(concurrency: int | None) -> Share:
    """The cluster shared out to so many engines; by default one on each GPU, or else one on each core."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    cores, gpus = [int(node.get("CPU", 0)) for node in nodes], sum(int(node.get("GPU", 0)) for node in nodes)
    cpus, widest = max(1, sum(cores)), max(cores, default=1)
    engines = concurrency or gpus or cpus
    threads = max(1, min(cpus // engines, widest))
    # Ray wants whole cores from one on. Below, what engines leave is for readers.
    engine_cpus = float(threads - 1) if threads > 1 else min(0.75, 0.75 * cpus / engines)
    return Share(engines, threads, engine_cpus, min(1.0, gpus / engines))


def _joined(address: str) -> bool:
    """False when ``auto`` finds no cluster."""
    try:
        _start(address)
    except ConnectionError:
        if address == "auto":
            return False
        raise
    return True


def _start(address: str, **settings: Any) -> None:
    """Without what Ray's native parts write to the terminal past Python."""
    terminal = os.dup(2)
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 2)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, **settings)
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
