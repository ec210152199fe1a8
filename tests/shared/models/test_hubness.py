"""Vectors near to everything are docked, in components that an inner product reads."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from shared.models.hubness import EXTRA, Hubness

DIM = 12


def _unit(count: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed)), dim=1)


def _sides() -> tuple[Hubness, Hubness]:
    photos, texts = Hubness(50, DIM), Hubness(50, DIM)
    photos.fill(_unit(50, 1), _unit(200, 2))
    texts.fill(_unit(50, 3), _unit(200, 4))
    return photos, texts


def test_the_product_of_extended_vectors_is_the_cosine_less_both_corrections() -> None:
    photos, texts = _sides()
    image, text = _unit(7, 5), _unit(9, 6)
    product = photos.extend(image, photo=True) @ texts.extend(text, photo=False).T
    expected = (image @ text.T - photos.correction(image) - texts.correction(text).T) / 2
    torch.testing.assert_close(product, expected)


@pytest.mark.parametrize("photo", [True, False])
def test_extended_vectors_are_unit_vectors(photo: bool) -> None:
    vectors = torch.cat([_unit(20, 7), _sides()[0].bank[:1]])
    extended = _sides()[0].extend(vectors, photo=photo)
    assert extended.shape == (21, DIM + EXTRA)
    torch.testing.assert_close(extended.norm(dim=1), torch.ones(21))


def test_a_hub_is_docked_and_an_outsider_is_lifted_a_little() -> None:
    hub = _unit(1, 8)
    side = Hubness(50, DIM)
    around = F.normalize(hub + 0.3 * _unit(50, 9), dim=1)
    side.fill(around, _unit(200, 10))
    assert side.correction(hub) > 0
    assert side.correction(-hub).item() == pytest.approx(-0.05)
    side.fill(around, hub)
    torch.testing.assert_close(side.correction(hub), torch.zeros(1, 1))


def test_a_correction_has_a_limit() -> None:
    side = Hubness(3, DIM)
    side.fill(_unit(1, 11).expand(3, DIM), -_unit(1, 11))
    assert side.correction(_unit(1, 11)).item() == pytest.approx(0.5)
    torch.testing.assert_close(side.extend(_unit(1, 11), photo=True).norm(dim=1), torch.ones(1))
