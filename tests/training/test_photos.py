"""What a photo looks like to the part of the backbone that is trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from shared.models import ImageTowerConfig, TextTowerConfig, Towers, TowersConfig
from training import photos

QUIET = Console(quiet=True)


@pytest.fixture
def towers() -> Towers:
    torch.manual_seed(0)
    image = ImageTowerConfig(backbone="test_efficientnet", size=64)
    return Towers(TowersConfig(image=image, text=TextTowerConfig(kind="gru", vocab_size=9, width=8)))


@pytest.fixture
def pixels() -> photos.Pixels:
    return np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)


def _seen(towers: Towers, pixels: photos.Pixels, trained: int, cache: Path) -> photos.Seen:
    frozen, _ = photos.divide(towers, trained)
    return photos.Seen.of(towers, frozen, pixels, 4, cache, torch.device("cpu"), QUIET)


def test_kept_maps_are_what_the_frozen_blocks_see(towers: Towers, pixels: photos.Pixels, tmp_path: Path) -> None:
    seen = _seen(towers, pixels, 2, tmp_path)
    frozen, trained = photos.divide(towers, 2)
    for view, shown in enumerate((pixels, pixels[:, :, ::-1].copy())):
        with torch.inference_mode():
            maps = towers.image.normalise(torch.from_numpy(shown))
            for block in frozen:
                maps = block(maps)
            whole = towers.image.look(torch.from_numpy(shown))[0]
            kept = seen.view(np.arange(3), view)
            apart = (towers.image.upper(kept, trained) - whole).norm() / whole.norm()
        assert kept.shape == maps.shape
        assert (kept - maps).norm() / maps.norm() < 0.02  # computed in bfloat16, kept in float16
        assert apart < 0.02


def test_all_views_differ_and_are_the_same_the_next_time(towers: Towers, pixels: photos.Pixels, tmp_path: Path) -> None:
    first, again = (_seen(towers, pixels, 2, tmp_path / name) for name in "ab")
    assert first.maps is not None and again.maps is not None
    assert np.array_equal(first.maps, again.maps)
    assert len({first.maps[0, view].tobytes() for view in range(4)}) == 4


def test_a_photo_whose_caption_names_a_side_is_not_mirrored(
    towers: Towers, pixels: photos.Pixels, tmp_path: Path
) -> None:
    pixels[:, :, :32], pixels[:, :, 32:] = 0, 255  # the left half is black
    rows, rng = np.arange(3).repeat(20), np.random.default_rng(0)
    whole, kept = _seen(towers, pixels, -1, tmp_path), _seen(towers, pixels, 2, tmp_path)
    assert kept.maps is not None
    views = [kept.view(np.arange(1), view)[0] for view in range(4)]

    def mirrored(sided: bool) -> tuple[int, int]:
        chosen = np.full(len(rows), sided)
        drawn = whole.draw(rows, chosen, rng)
        maps = kept.draw(rows, chosen, rng)
        odd = sum(any(torch.equal(one, views[view]) for view in (1, 3)) for one in maps[:20])
        return int((drawn[..., 0] > drawn[..., -1]).all(dim=(1, 2)).sum()), odd

    assert mirrored(sided=True) == (0, 0)
    in_pixels, in_maps = mirrored(sided=False)
    assert 10 < in_pixels < 50
    assert 3 < in_maps < 17


def test_a_crop_is_a_part_of_the_photo_at_its_old_size(pixels: photos.Pixels) -> None:
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, None, :, None] * 4, (8, 64, 64, 3)).copy()
    cut = photos.crop(torch.from_numpy(ramp), np.random.default_rng(0)).float()
    assert cut.shape == (8, 64, 64, 3)
    reach = (cut[:, 0, -1, 0] - cut[:, 0, 0, 0]) / 252
    assert ((reach > 0.5) & (reach <= 1)).all()
    assert len(set(reach.tolist())) > 4
