"""One process or many: what changes under ``torchrun``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process's place among its peers, and the device it computes on."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """True in the one process that writes files and prints."""
        return self.rank == 0

    def gather(self, rows: Tensor) -> Tensor:
        """Rows of every process, in rank order, through which gradients flow back to where they came from."""
        return rows if self.size == 1 else torch.cat(all_gather(rows))  # type: ignore[no-untyped-call]

    def batches(self, count: int, size: int, seed: int) -> Callable[[int], list[npt.NDArray[np.int64]]]:
        """This process's rows of each batch of an epoch, out of ``count``, in an order that (seed, epoch) decides. A
        batch is of up to ``size`` rows over all processes, as many in each; what is too few for another is left out.
        """
        whole = min(size, count) // self.size * self.size

        def of(epoch: int) -> list[npt.NDArray[np.int64]]:
            order = np.random.default_rng([seed, epoch]).permutation(count)
            return [order[s * whole : (s + 1) * whole][self.rank :: self.size] for s in range(count // whole)]

        return of

    def amp(self, wanted: bool | None) -> bool:
        """Whether to compute in bfloat16. On a CPU, even one that has it, the way back through the layers is slower."""
        return self.device.type == "cuda" if wanted is None else wanted

    def share(self, value: T) -> T:
        """The leader's ``value`` in every process: only the leader's node need have its files."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, src=0, device=self.device)
        return values[0]

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()


@contextmanager
def world(device: str) -> Iterator[World]:
    """Join the group that ``torchrun`` describes, or be alone. ``device``: auto, cpu, cuda or cuda:N."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} was asked for, but torch sees no CUDA device; use --device cpu or auto")
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(0, 1, torch.device(device))
        return
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield World(dist.get_rank(), size, torch.device(device))
    finally:
        dist.destroy_process_group()
