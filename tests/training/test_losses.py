"""InfoNCE against its definition, written out term by term."""

import math

import pytest
import torch
import torch.nn.functional as F

from training.losses import disagreement, info_nce, matching_loss


def _by_definition(images: torch.Tensor, texts: torch.Tensor, own: list[int], scale: float) -> float:
    """Each pair against itself and true negatives only, averaged over pairs, both ways."""
    similarity = scale * texts @ images.T
    t2i = i2t = 0.0
    for text, image in enumerate(own):
        positive = math.exp(similarity[text, image])
        other_images = sum(math.exp(similarity[text, i]) for i in range(len(images)) if i != image)
        other_texts = sum(math.exp(similarity[t, image]) for t in range(len(texts)) if own[t] != image)
        t2i -= math.log(positive / (positive + other_images)) / len(own)
        i2t -= math.log(positive / (positive + other_texts)) / len(own)
    return (t2i + i2t) / 2


def test_info_nce_is_its_definition_with_siblings_left_out() -> None:
    generator = torch.Generator().manual_seed(1)
    images = F.normalize(torch.randn(4, 8, generator=generator), dim=1)
    texts = F.normalize(torch.randn(8, 8, generator=generator), dim=1)
    own = [0, 0, 1, 1, 2, 2, 3, 3]
    loss = info_nce(images, texts, torch.arange(4), torch.tensor(own), torch.tensor(5.0))
    assert loss.item() == pytest.approx(_by_definition(images, texts, own, 5.0), rel=1e-5)


def test_a_sibling_caption_does_not_push() -> None:
    """One caption of a photo equal to its sibling must not cost anything, as it would were they negatives."""
    images = F.normalize(torch.eye(2, 8), dim=1)
    apart = info_nce(images, images, torch.arange(2), torch.arange(2), torch.tensor(10.0))
    texts = images.repeat_interleave(2, dim=0)
    doubled = info_nce(images, texts, torch.arange(2), torch.tensor([0, 0, 1, 1]), torch.tensor(10.0))
    assert doubled.item() == pytest.approx(apart.item() + math.log((1 + 2 * math.exp(-10)) / (1 + math.exp(-10))) / 2)


def test_info_nce_stays_finite_at_extreme_scales() -> None:
    images = F.normalize(torch.randn(3, 8), dim=1).requires_grad_()
    loss = info_nce(images, -images, torch.arange(3), torch.arange(3), torch.tensor(1e4))
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)
    assert images.grad is not None and torch.isfinite(images.grad).all()


def test_matching_loss_falls_as_the_true_pair_rises() -> None:
    low, high = (torch.tensor([[up, 0.0, 0.0]]) for up in (-2.0, 4.0))
    assert matching_loss(high) < matching_loss(low)
    indifferent = matching_loss(torch.zeros(1, 3)).item()
    assert indifferent == pytest.approx(math.log(3) + math.log(2), rel=1e-5)


def test_disagreement_is_the_divergence_of_choices_both_ways() -> None:
    draw = torch.Generator().manual_seed(2)
    student, teacher = torch.randn(3, 2, generator=draw), torch.randn(3, 2, generator=draw)
    expected = 0.0
    for mine, its in ((student, teacher), (student.T, teacher.T)):
        p, q = mine.softmax(dim=1), its.softmax(dim=1)
        expected += float((q * (q / p).log()).sum()) / len(q) / 2
    assert disagreement(student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_those_who_choose_alike_do_not_disagree() -> None:
    logits = 30 * torch.randn(4, 6, generator=torch.Generator().manual_seed(3))
    assert disagreement(logits, logits + 7).item() == pytest.approx(0, abs=1e-6)
