"""Captions as training sees them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from training.captions import Captions, map_by_length
from training.data import vocabulary
from training.data.captioned import CaptionedImage, CaptionedImages

TEXTS = (
    ("a dog", "a dog runs to the left", "the Right hand", "brightly leftover"),
    ("a very long caption of ten words in a row",),
    ("a cat", "two cats sit"),
)


@pytest.fixture
def captions() -> Captions:
    images = tuple(CaptionedImage(Path(f"{n}.jpg"), f"{n}.jpg", texts) for n, texts in enumerate(TEXTS))
    words = vocabulary.build((text for texts in TEXTS for text in texts), min_count=1)
    return Captions.of(CaptionedImages(images, {}), vocabulary.tokenizer(words), max_length=8)


def test_all_captions_are_encoded_in_order(captions: Captions) -> None:
    assert captions.texts == tuple(text for texts in TEXTS for text in texts)
    assert captions.image.tolist() == [0, 0, 0, 0, 1, 2, 2]
    assert captions.first.tolist() == [0, 4, 5, 7]
    assert captions.ids.shape == captions.mask.shape == (7, 8)
    assert captions.mask.sum(axis=1).tolist() == [4, 8, 5, 4, 8, 4, 5]  # two more than words, cut at eight
    assert not captions.ids[captions.mask == 0].any()


def test_captions_that_name_a_side_are_known(captions: Captions) -> None:
    assert captions.sided.tolist() == [False, True, True, False, False, False, False]


def test_drawn_captions_are_the_photos_own_and_differ_where_they_can(captions: Captions) -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(50):
        drawn = captions.draw(np.array([2, 0, 1]), 2, rng)
        assert drawn.shape == (3, 2)
        assert (captions.image[drawn] == np.array([[2], [0], [1]])).all()
        assert drawn[0, 0] != drawn[0, 1]
        assert drawn[1, 0] != drawn[1, 1]
        assert drawn[2].tolist() == [4, 4]
        seen |= set(drawn.ravel().tolist())
    assert seen == set(range(7))


def test_a_batch_is_cut_to_its_longest(captions: Captions) -> None:
    ids, mask = captions.batch(np.array([5, 2]), torch.device("cpu"))
    assert ids.shape == mask.shape == (2, 5)
    assert ids.tolist() == captions.ids[[5, 2], :5].tolist()


def test_rows_computed_by_length_come_back_in_their_own_order() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(23, 9, generator=generator)
    lengths = torch.randint(1, 10, (23,), generator=generator)
    mask = (torch.arange(9) < lengths[:, None]).long()
    widths: list[int] = []

    def work(rows: Tensor, longest: int) -> Tensor:
        widths.append(longest)
        return (values[rows, :longest] * mask[rows, :longest]).sum(dim=1)

    torch.testing.assert_close(map_by_length(work, mask, 5), (values * mask).sum(dim=1))
    assert len(widths) == 5
    assert widths == sorted(widths)
