"""The loop that both jobs share: schedule, precision, clipping, progress, and checkpoints that resume exactly."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter

from training.distributed import World

LAST, BEST, LOG = "last.pt", "best.pt", "log.jsonl"


class ResumeError(Exception):
    """The checkpoint in the output folder is of another run. Says what differs and what to do."""


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up for ``warmup`` steps, then a cosine down to zero (Loshchilov & Hutter, 2017). Seconds between
    checkpoints within an epoch: ``checkpoint_seconds``."""

    epochs: int
    warmup: int = 100
    clip: float = 1.0
    amp: bool = True
    seed: int = 0
    checkpoint_seconds: float = 300.0

    def factor(self, step: int, total: int) -> float:
        if step < self.warmup:
            return (step + 1) / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(1, total - self.warmup)))


Metrics = dict[str, float]
Batch = Sequence[int] | np.ndarray[Any, Any]
Loss = Callable[[nn.Module, Batch, np.random.Generator], Tensor]


def identity(options: object) -> dict[str, str]:
    """All of a job's options but where it writes and what it computes on."""
    return {k: str(v) for k, v in vars(options).items() if k not in ("out", "device")}


def quality(metrics: Metrics) -> float:
    """The sum of a job's recalls on dev, by which it compares epochs."""
    return sum(metrics.values())


def parameter_groups(model: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """All that is trained of ``model`` at one peak rate: matrices decay, vectors do not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "lr": lr, "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "lr": lr, "weight_decay": 0.0},
    ]


class Trainer:
    """Fits ``model`` and keeps the weights of its best epoch.

    ``groups`` are AdamW parameter groups, each with its own peak ``lr``. ``identity`` is what must be equal for a
    checkpoint in ``out`` to be continued.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: list[dict[str, Any]],
        schedule: Schedule,
        world: World,
        out: Path,
        identity: dict[str, Any],
        console: Console,
    ) -> None:
        self._model = model.to(world.device)
        self._parallel: nn.Module = (
            DistributedDataParallel(
                self._model, device_ids=[world.device.index] if world.device.index is not None else None
            )
            if world.size > 1
            else self._model
        )
        self._optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6, fused=world.device.type == "cuda")
        self._peaks = [group["lr"] for group in self._optimizer.param_groups]
        self._schedule = schedule
        self._world = world
        self._out = out
        self._identity = {"schedule": asdict(schedule), "processes": world.size, **identity}
        self._console = console
        self._best = -math.inf

    def fit(
        self,
        batches: Callable[[int], Sequence[Batch]],
        loss: Loss,
        evaluate: Callable[[], Metrics],
        score: Callable[[Metrics], float],
    ) -> Metrics:
        """Train all epochs and leave the best epoch's weights in the model. Returns that epoch's metrics.

        ``batches(epoch)`` lists this process's batches, the same whenever it is asked. ``loss`` gets its own random
        generator, and torch's is seeded, from (seed, epoch, step): so a resumed run takes the very steps that an
        unbroken one would have taken.
        """
        self._out.mkdir(parents=True, exist_ok=True)
        first, step = self._resume()
        best: Metrics = {}
        if self._world.share((self._out / BEST).exists()) and first > 0:
            best = self._read(BEST)["metrics"]
            self._best = score(best)
        writer = SummaryWriter(str(self._out / "tensorboard")) if self._world.leads else None
        with self._progress() as progress:
            for epoch in range(first, self._schedule.epochs):
                plan = batches(epoch)
                mean = self._epoch(epoch, step, plan, loss, progress, writer)
                step = 0
                metrics = evaluate() if self._world.leads else {}
                if self._world.leads:
                    self._report(epoch, mean, metrics, writer)
                    if score(metrics) > self._best:
                        self._best, best = score(metrics), metrics
                        self._save(BEST, {"model": self._model.state_dict(), "metrics": metrics, "epoch": epoch})
                    self._save_last(epoch + 1, 0)
                self._world.barrier()
        if writer is not None:
            writer.close()
        found = self._read(BEST)
        self._model.load_state_dict(found["model"])
        return dict(found["metrics"])

    def _epoch(
        self,
        epoch: int,
        first: int,
        plan: Sequence[Batch],
        loss: Loss,
        progress: Progress,
        writer: SummaryWriter | None,
    ) -> float:
        self._model.train()
        total = self._schedule.epochs * len(plan)
        task = progress.add_task(
            f"epoch {epoch + 1}/{self._schedule.epochs}", total=len(plan), completed=first, note=""
        )
        saved = started = time.monotonic()
        losses: list[float] = []
        seen = 0
        for step in range(first, len(plan)):
            done = epoch * len(plan) + step
            for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
                group["lr"] = peak * self._schedule.factor(done, total)
            seeds = np.random.SeedSequence([self._schedule.seed, epoch, step, self._world.rank])
            torch.manual_seed(int(seeds.generate_state(1)[0]))
            with torch.autocast(self._world.device.type, torch.bfloat16, enabled=self._schedule.amp):
                value = loss(self._parallel, plan[step], np.random.default_rng(seeds))
            if not torch.isfinite(value):
                raise FloatingPointError(f"the loss is {value.item()} at epoch {epoch + 1}, step {step}: lower --lr")
            self._optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            trained = [p for group in self._optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(trained, self._schedule.clip)
            self._optimizer.step()
            losses.append(value.item())
            seen += len(plan[step]) * self._world.size
            rate = seen / (time.monotonic() - started)
            progress.update(task, advance=1, note=f"loss {np.mean(losses[-50:]):.3f}  {rate:.0f} images/s")
            if writer is not None:
                writer.add_scalar("train/loss", losses[-1], done)
                writer.add_scalar("train/lr", self._optimizer.param_groups[0]["lr"], done)
            if self._world.leads and time.monotonic() - saved > self._schedule.checkpoint_seconds:
                self._save_last(epoch, step + 1)
                saved = time.monotonic()
        progress.remove_task(task)
        self._model.eval()
        return float(np.mean(losses)) if losses else math.nan

    def _report(self, epoch: int, mean: float, metrics: Metrics, writer: SummaryWriter | None) -> None:
        shown = "  ".join(f"{name} {value:.1f}" for name, value in metrics.items())
        self._console.print(f"epoch {epoch + 1}/{self._schedule.epochs}  loss {mean:.3f}  {shown}", highlight=False)
        with (self._out / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"epoch": epoch + 1, "loss": mean, "time": time.time(), **metrics}) + "\n")
        if writer is not None:
            for name, value in metrics.items():
                writer.add_scalar(f"dev/{name}", value, epoch + 1)

    def _resume(self) -> tuple[int, int]:
        path = self._out / LAST
        if not self._world.share(path.exists()):
            return 0, 0
        state = self._read(LAST)
        if state["identity"] != (mine := json.loads(json.dumps(self._identity))):
            differs = sorted(
                k for k in mine.keys() | state["identity"].keys() if mine.get(k) != state["identity"].get(k)
            )
            raise ResumeError(
                f"{path} is the checkpoint of another run (different: {', '.join(differs)}); give the same options to "
                "continue it, or another --out"
            )
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._console.print(f"continuing from {path}: epoch {state['epoch'] + 1}, step {state['step']}")
        return int(state["epoch"]), int(state["step"])

    def _read(self, name: str) -> dict[str, Any]:
        """The leader's checkpoint, in every process: another node may not see its folder."""
        mine = torch.load(self._out / name, "cpu", weights_only=True) if self._world.leads else {}
        return self._world.share(mine)

    def _save_last(self, epoch: int, step: int) -> None:
        state = {
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "epoch": epoch,
            "step": step,
            "identity": json.loads(json.dumps(self._identity)),
        }
        self._save(LAST, state)

    def _save(self, name: str, state: dict[str, Any]) -> None:
        """Beside, then over: a kill leaves the old checkpoint or the new one."""
        beside = self._out / f".{name}.tmp"
        torch.save(state, beside)
        beside.replace(self._out / name)

    def _progress(self) -> Progress:
        return Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._world.leads,
            transient=True,
        )
