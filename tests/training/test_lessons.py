"""Layers that are brought to say what a teacher says."""

from __future__ import annotations

import torch
from torch import nn

from training import lessons


def test_a_layer_learns_what_is_linear_in_its_inputs() -> None:
    """From several parts, under noise, the offset too; more so than from one part alone."""
    draw = torch.Generator().manual_seed(0)
    truth = nn.Linear(20, 3)

    def pair(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = torch.randn(rows, 20, generator=draw)
        return inputs, truth(inputs).detach() + 0.3 * torch.randn(rows, 3, generator=draw)

    asked, right = pair(500)
    errors = []
    parts = [pair(30), pair(300), pair(300)]
    for known in (parts[:1], parts):
        layer = nn.Linear(20, 3)
        lessons.solve(layer, known)
        errors.append(float((layer(asked).detach() - right).square().mean().sqrt()))
    assert errors[1] < 0.33 < errors[0]
