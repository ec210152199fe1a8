"""Two processes with gathered negatives compute what one process computes on the whole batch."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from training.distributed import World, world
from training.losses import info_nce


def _model() -> nn.Linear:
    torch.manual_seed(3)
    return nn.Linear(6, 5)


def _loss(model: nn.Module, images: torch.Tensor, texts: torch.Tensor, ids: torch.Tensor, gather: Any) -> torch.Tensor:
    both = F.normalize(model(torch.cat([images, texts])), dim=1)
    image, text = both[: len(images)], both[len(images) :]
    return info_nce(gather(image), gather(text), gather(ids), gather(ids), torch.tensor(4.0))


def _data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(8, 6, generator=generator), torch.randn(8, 6, generator=generator)


def _worker(rank: int, port: int, out: Path) -> None:
    import os

    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    images, texts = _data()
    with world("cpu") as peers:
        model = DistributedDataParallel(_model())
        mine = slice(4 * rank, 4 * rank + 4)
        loss = _loss(model, images[mine], texts[mine], torch.arange(8)[mine], peers.gather)
        loss.backward()  # type: ignore[no-untyped-call]
        assert peers.share({"of": rank, "loss": loss.detach() + rank})["of"] == 0
        gradients = {name: p.grad for name, p in model.module.named_parameters()}
        torch.save({"loss": loss.detach(), **gradients}, out / f"{rank}.pt")
        peers.barrier()


def test_gathered_negatives_give_the_loss_and_gradients_of_one_process(tmp_path: Path, free_tcp_port: int) -> None:
    spawn(_worker, (free_tcp_port, tmp_path), nprocs=2)  # type: ignore[no-untyped-call]
    images, texts = _data()
    model = _model()
    loss = _loss(model, images, texts, torch.arange(8), lambda rows: rows)
    loss.backward()  # type: ignore[no-untyped-call]
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found["loss"], loss.detach())
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(found[name], parameter.grad)


def test_processes_share_each_batch_evenly_in_one_order() -> None:
    """Of 10 rows, batches of 5 over two processes are of 4: two of them, two rows left out."""
    ranks = [World(rank, 2, torch.device("cpu")).batches(10, 5, seed=3) for rank in range(2)]
    for epoch in range(2):
        shares = [np.stack(batches(epoch)) for batches in ranks]
        assert [share.shape for share in shares] == [(2, 2), (2, 2)]
        assert len(np.unique(shares)) == 8
        np.testing.assert_array_equal(shares[0], ranks[0](epoch))
    assert not np.array_equal(ranks[0](0), ranks[0](1))
    alone = World(0, 1, torch.device("cpu")).batches(3, 5, seed=3)(0)
    assert [sorted(batch) for batch in alone] == [[0, 1, 2]]
