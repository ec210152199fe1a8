"""Any torchvision or timm backbone gives the promised shapes, and takes its library's weights."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision

from shared.models import ImageTowerConfig
from shared.models.image_tower import Backbone, ImageTower


@pytest.mark.parametrize(
    ("library", "backbone", "size", "grid", "channels"),
    [
        ("timm", "test_efficientnet", 96, 3, 256),
        ("timm", "test_vit", 80, 5, 64),
        ("timm", "resnet10t", 64, 2, 512),
        ("torchvision", "resnet18", 64, 2, 512),
        ("torchvision", "mobilenet_v3_small", 64, 2, 576),
        ("torchvision", "swin_t", 64, 2, 768),
        ("torchvision", "vit_b_32", 64, 2, 768),
    ],
)
def test_a_backbone_gives_its_grid_and_takes_its_librarys_weights(
    library: str, backbone: str, size: int, grid: int, channels: int
) -> None:
    body = Backbone(library, backbone, size).eval()
    assert (body.grid, body.channels) == ((grid, grid), channels)
    pixels = torch.rand(2, 3, size, size)
    with torch.inference_mode():
        features = body(pixels)
    assert features.shape == (2, channels, grid, grid)
    assert (features[0] - features[1]).abs().max() > 0
    names = body.body.state_dict().keys()
    sized = {"image_size": size} if backbone.startswith("vit") else {}
    whole = (
        timm.create_model(backbone)
        if library == "timm"
        else torchvision.models.get_model(backbone, weights=None, **sized)
    )
    assert not names - whole.state_dict().keys()


def test_each_place_of_the_grid_sees_its_part_of_a_picture() -> None:
    """A transformer's tokens are put back where their patches were."""
    torch.manual_seed(0)
    body = Backbone("timm", "test_vit", 80).eval()
    pixels = torch.zeros(1, 3, 80, 80)
    changed = pixels.clone()
    changed[:, :, :16, 64:] = 3  # the patch in row 0, column 4
    with torch.inference_mode():
        difference = (body(pixels) - body(changed)).norm(dim=1)[0]
    assert divmod(int(difference.argmax()), 5) == (0, 4)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_an_unknown_backbone_is_refused(library: str) -> None:
    with pytest.raises(ValueError, match="no_such_network"):
        Backbone(library, "no_such_network", 64)


def test_a_backbone_without_a_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="no grid of features"):
        Backbone("torchvision", "shufflenet_v2_x0_5", 64)


def _tower(grid: int, size: int = 128, looks: int = 1) -> ImageTower:
    torch.manual_seed(0)
    config = ImageTowerConfig(backbone="test_efficientnet", size=size, grid=grid, looks=looks)
    return ImageTower(config, vector_dim=24, token_dim=8).eval()


@pytest.mark.parametrize(("grid", "side"), [(7, 4), (4, 4), (3, 3), (2, 2), (1, 1)])
def test_the_grid_is_averaged_down_to_what_was_asked_for(grid: int, side: int) -> None:
    tower = _tower(grid)
    pixels = torch.randint(0, 256, (2, 128, 128, 3), dtype=torch.uint8)
    with torch.inference_mode():
        features = tower.look(pixels)[0]
        embedding, tokens = tower.embed(features.mean(dim=1)), tower.tokens(features)
        whole = tower.backbone(tower.normalise(pixels))
    assert features.shape == (2, side**2, 256)
    assert embedding.shape == (2, 24)
    assert tokens.shape == (2, side**2, 8)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))
    if side == 2:
        torch.testing.assert_close(features[:, 1], whole[:, :, :2, 2:].mean(dim=(2, 3)))


@pytest.mark.parametrize("last", [0, 1, 3])
@pytest.mark.parametrize(
    ("library", "backbone"),
    [("timm", "test_efficientnet"), ("timm", "resnet10t"), ("torchvision", "mobilenet_v3_small")],
)
def test_a_divided_backbone_computes_what_the_whole_does(library: str, backbone: str, last: int) -> None:
    body = Backbone(library, backbone, 64).eval()
    first, rest = body.divide(last)
    assert len(rest) == last
    pixels = maps = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        for block in (*first, *rest):
            maps = block(maps)
        torch.testing.assert_close(maps, body(pixels))


@pytest.mark.parametrize(("backbone", "last", "message"), [("test_vit", 1, "not a chain"), ("resnet10t", 99, "blocks")])
def test_what_cannot_be_divided_is_refused(backbone: str, last: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Backbone("timm", backbone, 80).divide(last)


@pytest.mark.parametrize("looks", [1, 2, 3, 5])
def test_a_feature_is_the_mean_of_looks_at_the_photo_and_its_corners(looks: int) -> None:
    tower = _tower(7, size=64, looks=looks)
    pixels = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        grid, feature = tower.look(pixels)
        whole = tower.normalise(pixels)
        corners = [whole[:, :, :51, :51], whole[:, :, 13:, 13:], whole[:, :, :51, 13:], whole[:, :, 13:, :51]]
        seen = [whole, *(F.interpolate(c, (64, 64), mode="bilinear") for c in corners[: looks - 1])]
        alone = tower.backbone(whole).flatten(2).transpose(1, 2)
        expected = torch.stack([tower.backbone(view).mean(dim=(2, 3)) for view in seen]).mean(dim=0)
    torch.testing.assert_close(grid, alone)
    torch.testing.assert_close(feature, expected)


def test_standardised_features_have_mean_0_and_deviation_1() -> None:
    tower = _tower(3)
    features = torch.randn(500, 256) * 3 + 7
    tower.standardise(features)
    tower.projection = torch.nn.Identity()  # type: ignore[assignment]
    with torch.inference_mode():
        directions = tower.embed(features)
    torch.testing.assert_close(
        directions, F.normalize((features - features.mean(0)) / features.std(0), dim=1), atol=1e-3, rtol=0
    )


def test_pixels_are_normalised_inside() -> None:
    tower = _tower(3, size=96)
    black = tower.normalise(torch.zeros(1, 96, 96, 3, dtype=torch.uint8))
    assert black.shape == (1, 3, 96, 96)
    torch.testing.assert_close(black.mean(), torch.tensor(-127 / 128))
