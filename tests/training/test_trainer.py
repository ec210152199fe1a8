"""The loop itself: a run that was cut off ends where an unbroken one ends, to the bit."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from training.distributed import World
from training.trainer import Batch, ResumeError, Schedule, Trainer

ALONE = World(0, 1, torch.device("cpu"))


class _CutOffError(Exception):
    pass


def _fit(out: Path, *, cut_at: int | None = None, epochs: int = 3, seed: int = 0) -> dict[str, Tensor]:
    """Fit a small network with dropout and random noise on 4 batches an epoch; ``cut_at`` counts loss calls."""
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.3), nn.Linear(16, 1))
    calls = 0

    def loss(parallel: nn.Module, batch: Batch, rng: np.random.Generator) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == cut_at:
            raise _CutOffError
        rows = torch.tensor(np.asarray(batch), dtype=torch.float32)[:, None] + torch.tensor(
            rng.standard_normal((len(batch), 4)), dtype=torch.float32
        )
        error: Tensor = (parallel(rows) - rows.sum(dim=1, keepdim=True)).square().mean()
        return error

    def evaluate() -> dict[str, float]:
        with torch.no_grad():
            return {"minus": -float(model(torch.ones(1, 4)).square())}

    trainer = Trainer(
        model,
        [{"params": list(model.parameters()), "lr": 1e-2, "weight_decay": 0.0}],
        Schedule(epochs, warmup=2, amp=False, seed=seed, checkpoint_seconds=0),
        ALONE,
        out,
        {"what": "test"},
        Console(quiet=True),
    )
    order = np.arange(16).reshape(4, 4)
    trainer.fit(lambda epoch: list(np.roll(order, epoch, axis=0)), loss, evaluate, lambda m: m["minus"])
    last: dict[str, Tensor] = torch.load(out / "last.pt", weights_only=True)["model"]
    return last


@pytest.mark.parametrize("cut_at", [1, 3, 4, 5, 10, 12])
def test_a_resumed_run_takes_the_very_same_steps(tmp_path: Path, cut_at: int) -> None:
    unbroken = _fit(tmp_path / "unbroken")
    with pytest.raises(_CutOffError):
        _fit(tmp_path / "broken", cut_at=cut_at)
    resumed = _fit(tmp_path / "broken")
    assert unbroken.keys() == resumed.keys()
    assert all(torch.equal(unbroken[key], resumed[key]) for key in unbroken)


def test_another_runs_checkpoint_is_refused(tmp_path: Path) -> None:
    _fit(tmp_path)
    with pytest.raises(ResumeError, match="schedule"):
        _fit(tmp_path, seed=1)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    model = nn.Linear(1, 1)
    trainer = Trainer(
        model,
        [{"params": list(model.parameters()), "lr": 1.0}],
        Schedule(1, amp=False),
        ALONE,
        tmp_path,
        {},
        Console(quiet=True),
    )
    with pytest.raises(FloatingPointError, match="lower --lr"):
        trainer.fit(lambda _: [[0]], lambda m, b, r: m(torch.tensor([[float("nan")]])).sum(), dict, lambda _: 0.0)


def test_the_schedule_warms_up_and_cools_down() -> None:
    schedule = Schedule(epochs=1, warmup=10)
    factors = [schedule.factor(step, 100) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[-1] < 0.001
