"""Hubs are vectors near to everything, which crowd every answer: each vector carries what it has to be docked for."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EXTRA = 4  # components that the correction takes
_SHARPNESS = 20.0
_WEIGHT = 0.7
_LIMIT = 0.5
_LIFT = 0.05
_ONE = math.sqrt(_LIMIT)  # what a correction is multiplied by in the other side's vector; keeps all norms alike


class Hubness(nn.Module):
    """Inverted softmax (Smith et al., 2017, https://arxiv.org/abs/1702.03859) that an inner-product index can search.

    A vector's correction is its mean log-likelihood as an answer to the ``bank``, vectors of the other side from the
    training data. One that nothing there is like is lifted by a little only: else it would come first wherever nothing
    fits. The correction goes into extra components, so that with photo v and text t, unit vectors of :meth:`extend`,
    v' @ t' = (v @ t - correction(v) - correction(t)) / 2.
    """

    bank: Tensor
    usual: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("bank", torch.zeros(size, dim))
        self.register_buffer("usual", torch.zeros(()))

    @torch.no_grad()
    def fill(self, bank: Tensor, own: Tensor) -> None:
        """Judge by ``bank`` (size, D) from now on; the mean of the vectors ``own`` (n, D) is no hub."""
        self.bank.copy_(F.normalize(bank, dim=-1))
        self.usual.copy_(self._likely(own).mean())

    def _likely(self, vectors: Tensor) -> Tensor:
        return (_SHARPNESS * vectors @ self.bank.T).logsumexp(dim=-1, keepdim=True) / _SHARPNESS

    def correction(self, vectors: Tensor) -> Tensor:
        """Unit vectors (B, D) -> (B, 1)."""
        return (_WEIGHT * (self._likely(vectors) - self.usual)).clamp(-_LIFT, _LIMIT)

    def extend(self, vectors: Tensor, *, photo: bool) -> Tensor:
        """Unit vectors (B, D) -> unit vectors (B, D + 4)."""
        docked = -self.correction(vectors) / _ONE
        one, none = torch.full_like(docked, _ONE), torch.zeros_like(docked)
        rest = (_LIMIT - docked**2).clamp(min=0).sqrt()  # each side has its own, so that they never meet
        extra = (docked, one, rest, none) if photo else (one, docked, none, rest)
        return torch.cat([vectors, *extra], dim=-1) / math.sqrt(2)


class Docked(nn.Module):
    """A dual encoder whose two sides, vectors of ``dim``, are docked for their hubness where it has a ``bank``."""

    def __init__(self, bank: int, dim: int) -> None:
        super().__init__()
        self.image_hubness = Hubness(bank, dim) if bank else None
        self.text_hubness = Hubness(bank, dim) if bank else None

    def photo_vectors(self, vectors: Tensor) -> Tensor:
        """What an index holds: the image tower's vectors, less their hubness."""
        return vectors if self.image_hubness is None else self.image_hubness.extend(vectors, photo=True)

    def text_vectors(self, vectors: Tensor) -> Tensor:
        """The same of the text tower's."""
        return vectors if self.text_hubness is None else self.text_hubness.extend(vectors, photo=False)
