"""The reranker's logit depends on the pair and on nothing beside it."""

from __future__ import annotations

import torch

from shared.models import Reranker, RerankerConfig
from shared.models.reranker import LateInteraction


def _reranker() -> Reranker:
    torch.manual_seed(0)
    reranker = Reranker(RerankerConfig(token_dim=8, width=32, layers=2, heads=4)).eval()
    torch.nn.init.normal_(reranker.match.weight)  # as training leaves it: it starts at zero
    return reranker


@torch.inference_mode()
def test_padding_of_the_text_does_not_change_the_logit() -> None:
    reranker = _reranker()
    text, image = torch.randn(3, 5, 8), torch.randn(3, 9, 8)
    alone = reranker(text, torch.ones(3, 5, dtype=torch.bool), image)
    assert alone.shape == (3,)
    padded = torch.cat([text, 100 * torch.randn(3, 4, 8)], dim=1)
    mask = torch.arange(9).expand(3, 9) < 5
    torch.testing.assert_close(reranker(padded, mask, image), alone, atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_companions_do_not_change_the_logit() -> None:
    reranker = _reranker()
    text, image = torch.randn(4, 5, 8), torch.randn(4, 9, 8)
    mask = torch.ones(4, 5, dtype=torch.bool)
    together = reranker(text, mask, image)
    apart = torch.cat([reranker(text[i : i + 1], mask[i : i + 1], image[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_the_logit_depends_on_both() -> None:
    reranker = _reranker()
    text, image = torch.randn(2, 5, 8), torch.randn(2, 9, 8)
    mask = torch.ones(2, 5, dtype=torch.bool)
    own = reranker(text, mask, image)
    assert (own - reranker(text, mask, image.flip(0))).abs().min() > 1e-5
    assert (own - reranker(text.flip(0), mask, image)).abs().min() > 1e-5


def test_every_weight_is_trained() -> None:
    reranker = _reranker().train()
    reranker(torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool), torch.randn(2, 9, 8)).sum().backward()
    for name, parameter in reranker.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@torch.inference_mode()
def test_untrained_it_ranks_by_how_well_each_words_best_place_fits() -> None:
    torch.manual_seed(0)
    reranker = Reranker(RerankerConfig(token_dim=8, width=32, layers=2, heads=4)).eval()
    text = torch.eye(8)[None, :3].expand(2, 3, 8)
    found, half = torch.eye(8)[[7, 2, 1, 0]], torch.eye(8)[[7, 2, 6, 5]]
    mask = torch.tensor([[True, True, True]] * 2)
    logits = reranker(text, mask, torch.stack([found, half]))
    torch.testing.assert_close(logits, torch.tensor([1, 1 / 3]) * reranker.late.log_scale.exp())


@torch.inference_mode()
def test_late_interaction_of_all_pairs_is_that_of_each() -> None:
    torch.manual_seed(0)
    late = LateInteraction(8)
    for layer in (late.importance, late.prior):
        torch.nn.init.normal_(layer.weight)
    text, image = torch.randn(4, 6, 8), torch.randn(3, 9, 8)
    mask = torch.arange(6) < torch.tensor([[6], [2], [1], [4]])
    every = late.every(text, mask, image)
    assert every.shape == (4, 3)
    for column in range(3):
        torch.testing.assert_close(every[:, column], late(text, mask, image[column].expand(4, 9, 8)))
