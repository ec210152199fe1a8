"""The reranker's logit depends on the pair and on nothing beside it."""

from __future__ import annotations

import torch

from shared.models import Reranker, RerankerConfig


def _reranker() -> Reranker:
    torch.manual_seed(0)
    return Reranker(RerankerConfig(token_dim=8, width=32, layers=2, heads=4)).eval()


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
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in reranker.parameters())
