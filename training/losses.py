"""The losses: InfoNCE in which sibling captions are not negatives, a listwise matching loss for the reranker, and how
far a student's choices are from its teacher's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(images: Tensor, texts: Tensor, image_ids: Tensor, text_image_ids: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE (van den Oord et al., 2018, https://arxiv.org/abs/1807.03748) with several captions an image.

    ``images`` (I, D) and ``texts`` (T, D) are unit vectors, ``image_ids`` (I,) and ``text_image_ids`` (T,) say which
    belong together, ``scale`` is the inverse temperature. A pair's denominator holds itself and true negatives only.
    """
    match = text_image_ids[:, None] == image_ids[None]
    return contrast(scale * texts @ images.T, match)


def contrast(logits: Tensor, match: Tensor) -> Tensor:
    """InfoNCE both ways from ``logits`` (T, I) of every text with every image, true pairs marked in ``match``."""
    return (_one_positive_against_negatives(logits, match) + _one_positive_against_negatives(logits.T, match.T)) / 2


def _one_positive_against_negatives(logits: Tensor, match: Tensor) -> Tensor:
    """Mean over positive pairs of -log(exp(s+) / (exp(s+) + sum over the row's negatives of exp(s-)))."""
    negatives = logits.masked_fill(match, float("-inf")).logsumexp(dim=1, keepdim=True)
    losses = F.softplus(negatives - logits)  # the same fraction, written so that it cannot overflow
    return torch.where(match, losses, 0).sum() / match.sum()


def disagreement(student: Tensor, teacher: Tensor) -> Tensor:
    """How unlike two models' logits (T, I) of every text with every image are: the Kullback-Leibler divergence of their
    choices of an image for a text and of a text for an image (Hinton et al., 2015, https://arxiv.org/abs/1503.02531)."""
    ways = ((student, teacher), (student.T, teacher.T))
    return torch.stack([_divergence(a.log_softmax(dim=1), b.log_softmax(dim=1)) for a, b in ways]).mean()


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    return F.kl_div(student, teacher, log_target=True, reduction="batchmean")


def matching_loss(logits: Tensor, smoothing: float = 0.0) -> Tensor:
    """``logits`` (B, 1 + M): the true pair first, M hard negatives after it.

    Cross-entropy over each list teaches the order; binary cross-entropy gives the logit an absolute meaning.
    """
    target = torch.zeros_like(logits)
    target[:, 0] = 1
    order = F.cross_entropy(logits, target.argmax(dim=1), label_smoothing=smoothing)
    weight = torch.where(target > 0, logits.shape[1] - 1.0, 1.0)  # as much weight on the one match as on all the rest
    match = F.binary_cross_entropy_with_logits(
        logits, target, weight=weight / (2 * (logits.shape[1] - 1) / logits.shape[1])
    )
    return order + match
