"""Projections fitted on frozen towers, and hubs told by the training data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from shared.models import ImageTowerConfig, TextTowerConfig, Towers, TowersConfig
from training import heads
from training.captions import Captions
from training.classes import Vectors
from training.dual import recalls

QUIET = Console(quiet=True)
PHOTOS, CAPTIONS = 60, 2


def _towers(bank: int = 0) -> Towers:
    torch.manual_seed(0)
    image = ImageTowerConfig(backbone="test_efficientnet", size=64)
    text = TextTowerConfig(kind="gru", vocab_size=20, width=16, max_length=12)
    return Towers(TowersConfig(embedding_dim=20, bank=bank, token_dim=8, image=image, text=text)).eval()


@pytest.fixture
def captions() -> Captions:
    own = np.repeat(np.arange(PHOTOS), CAPTIONS)
    ids = np.ones((len(own), 4), np.int64)
    first = np.arange(0, len(own) + 1, CAPTIONS)
    return Captions(("",) * len(own), ids, ids, own, first, np.zeros(len(own), np.bool_))


@pytest.fixture
def frozen(captions: Captions) -> tuple[Tensor, Tensor]:
    """Features and means that hold, under much noise, the same few numbers."""
    draw = torch.Generator().manual_seed(1)
    meaning = torch.randn(PHOTOS, 6, generator=draw)
    features = 5 + 2 * meaning @ torch.randn(6, 256, generator=draw) + torch.randn(PHOTOS, 256, generator=draw)
    means = meaning @ torch.randn(6, 16, generator=draw)
    noisy = means[torch.from_numpy(captions.image)] + 0.3 * torch.randn(PHOTOS * CAPTIONS, 16, generator=draw)
    return features[:, None], noisy


def test_the_projections_learn_what_frozen_towers_know(captions: Captions, frozen: tuple[Tensor, Tensor]) -> None:
    towers, (features, means) = _towers(), frozen
    untouched = {k: v.clone() for k, v in towers.state_dict().items() if "backbone" in k or "encoder" in k}
    heads.fit(towers, features, means, captions, 150, 0, QUIET)
    figures = recalls(Vectors.of(towers, features[:, 0], means).similarity, captions.image)
    assert figures["t2i_r1"] > 80
    assert figures["i2t_r1"] > 80
    assert not towers.training
    assert all(torch.equal(value, towers.state_dict()[key]) for key, value in untouched.items())


def test_equal_seeds_give_equal_heads(captions: Captions, frozen: tuple[Tensor, Tensor]) -> None:
    one, same, other = (_towers() for _ in range(3))
    for towers, seed in ((one, 0), (same, 0), (other, 1)):
        heads.fit(towers, *frozen, captions, 3, seed, QUIET)
    assert torch.equal(one.image.projection.weight, same.image.projection.weight)
    assert not torch.equal(one.image.projection.weight, other.image.projection.weight)


def test_no_epochs_only_standardise(captions: Captions, frozen: tuple[Tensor, Tensor]) -> None:
    towers = _towers()
    before = towers.image.projection.weight.clone()
    heads.fit(towers, *frozen, captions, 0, 0, QUIET)
    assert torch.equal(towers.image.projection.weight, before)
    torch.testing.assert_close(towers.image.feature_mean, frozen[0][:, 0].mean(dim=0))


def test_the_banks_are_the_other_side_and_corrections_are_around_zero(frozen: tuple[Tensor, Tensor]) -> None:
    towers = _towers(bank=30)
    known = Vectors.of(towers, frozen[0][:, 0], frozen[1])
    heads.fill_banks(towers, known)
    assert towers.image_hubness is not None
    assert towers.text_hubness is not None
    for hubness, own, other in (
        (towers.image_hubness, known.images, known.texts),
        (towers.text_hubness, known.texts, known.images),
    ):
        assert (hubness.bank @ other.T).amax(dim=1).min() > 0.9999  # each is one of them
        assert len(torch.unique(hubness.bank, dim=0)) == 30
        assert hubness.correction(own).min() < 0 < hubness.correction(own).max()
    public = known.public(towers)
    assert public.images.shape == (PHOTOS, 20)
    assert not np.allclose(public.similarity, known.similarity / 2)


def test_towers_without_a_bank_are_left_alone(frozen: tuple[Tensor, Tensor]) -> None:
    towers = _towers()
    known = Vectors.of(towers, frozen[0][:, 0], frozen[1])
    heads.fill_banks(towers, known)
    assert known.public(towers) == known
