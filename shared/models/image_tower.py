"""The image tower: a convolutional or transformer backbone, one vector from its mean feature, and a few tokens."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, cast

import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from shared.models.config import ImageTowerConfig
from shared.models.grid_tower import GridTower


class Backbone(nn.Module):
    """Any torchvision or timm classifier without its head: normalised pixels (B, 3, S, S) -> grid (B, C, h, w)."""

    def __init__(self, library: str, name: str, size: int) -> None:
        """Raises ValueError for an architecture that the library does not have."""
        super().__init__()
        if library == "timm":
            self.body = _timm(name, size)
            self.prefix_tokens = int(getattr(self.body, "num_prefix_tokens", 0))
        else:
            sized: dict[str, Any] = {"image_size": size} if name.startswith("vit") else {}
            self.body = _without_head(torchvision.models.get_model(name, weights=None, **sized))
            self.prefix_tokens = 1 if name.startswith("vit") else 0
        was_training = self.training
        with torch.no_grad():
            _, self.channels, *grid = cast(Tensor, self.eval()(torch.zeros(1, 3, size, size))).shape
        self.train(was_training)
        self.grid: tuple[int, int] = (grid[0], grid[1])

    def forward(self, pixels: Tensor) -> Tensor:
        features = getattr(self.body, "forward_features", self.body)(pixels)
        if isinstance(features, dict):
            features = next(iter(features.values()))
        if features.ndim == 3:  # a transformer's (B, prefix + h * w, C)
            features = features[:, self.prefix_tokens :]
            side = math.isqrt(features.shape[1])
            features = features.transpose(1, 2).unflatten(2, (side, side))
        elif getattr(self.body, "output_fmt", "NCHW") == "NHWC":
            features = features.permute(0, 3, 1, 2)
        return cast(Tensor, features)

    def divide(self, last: int) -> tuple[list[nn.Module], list[nn.Module]]:
        """The body as (all but the ``last`` blocks, the ``last`` blocks), each a chain to be run in turn.

        Raises ValueError for an architecture that is more than such a chain, or has no more blocks than that.
        """
        if last == 0:
            return [self], []
        blocks: list[nn.Module] = []
        for name, child in self.body.named_children():
            if name not in _HEADS:
                blocks += child.children() if isinstance(child, nn.Sequential) else [child]
        was_training, device = self.training, next(self.parameters()).device
        try:
            with torch.no_grad():
                size = 32 * max(self.grid)
                whole = passed = torch.randn(1, 3, size, size, device=device)
                whole = self.eval()(whole)
                for block in blocks:
                    passed = block(passed)
                same = whole.shape == passed.shape and torch.allclose(whole, passed, atol=1e-4, rtol=1e-3)
        except Exception:  # whatever a block says of an input that is not its own
            same = False
        finally:
            self.train(was_training)
        if not same:
            raise ValueError(
                f"{type(self.body).__name__} is not a chain of blocks, so it cannot be trained in part: train all of "
                "it or nothing"
            )
        if last >= len(blocks):
            raise ValueError(f"{type(self.body).__name__} has {len(blocks)} blocks: the last {last} are all of it")
        return blocks[:-last], blocks[-last:]


_HEADS = ("global_pool", "head_drop", "classifier", "fc", "head")


def _timm(name: str, size: int) -> nn.Module:
    headless: dict[str, Any] = {"pretrained": False, "num_classes": 0, "global_pool": ""}
    try:
        return timm.create_model(name, img_size=size, **headless)
    except TypeError:  # only a transformer is told the size; a convolutional network takes any
        return timm.create_model(name, **headless)
    except RuntimeError as error:
        raise ValueError(f"timm cannot build {name!r}: {error}; timm.list_models() lists what it has") from error


def _without_head(model: nn.Module) -> nn.Module:
    """A torchvision classifier up to its last grid, under its own names, so that its weights fit.

    Raises ValueError for a shape we do not know.
    """
    if isinstance(model, torchvision.models.SwinTransformer):  # the one whose grid is (B, h, w, C)
        return _named(features=model.features, norm=model.norm, permute=model.permute)
    if isinstance(features := getattr(model, "features", None), nn.Module):
        return _named(features=features)
    if hasattr(model, "layer4"):
        return _named(**{name: child for name, child in model.named_children() if name not in ("avgpool", "fc")})
    if hasattr(model, "encoder"):
        from torchvision.models.feature_extraction import create_feature_extractor

        return cast(nn.Module, create_feature_extractor(model, ["encoder.ln"]))
    raise ValueError(f"{type(model).__name__} has no grid of features that we know how to find; try the timm one")


def _named(**children: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(children))


class ImageTower(GridTower):
    """A grid, and the mean ``feature`` (B, C) of some looks -> vector (B, D).

    Where the backbone's first blocks are frozen, their output can be kept; ``upper`` goes on from there.
    """

    config: ImageTowerConfig
    feature_mean: Tensor
    feature_std: Tensor
    class_vectors: Tensor
    class_weight: Tensor

    def __init__(self, config: ImageTowerConfig, vector_dim: int, token_dim: int) -> None:
        backbone = Backbone(config.library, config.backbone, config.size)
        super().__init__(config, backbone.grid)
        self.backbone = backbone
        self.looks = config.looks
        channels = backbone.channels
        self.register_buffer("feature_mean", torch.zeros(channels))
        self.register_buffer("feature_std", torch.ones(channels))
        self.dropout = nn.Dropout(config.dropout)
        self.projection = nn.Linear(channels, vector_dim)
        self.token_projection = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, token_dim))
        if config.classes:
            self.classifier = nn.Linear(channels, config.classes).requires_grad_(False)
            self.register_buffer("class_vectors", torch.zeros(config.classes, vector_dim))
            self.register_buffer("class_weight", torch.zeros(()))

    @torch.no_grad()
    def standardise(self, features: Tensor) -> None:
        """Have :meth:`embed` see each of the channels of ``features`` (N, C) with mean 0 and deviation 1."""
        self.feature_mean.copy_(features.mean(dim=0))
        self.feature_std.copy_(features.std(dim=0) + 1e-3)

    def look(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (B, H, W, 3) -> the grid (B, N, C) of the whole photo, and the mean feature (B, C) of all looks."""
        whole = self.normalise(pixels)
        grids = [self._flat(self.backbone(self.part(whole, look))) for look in range(self.looks)]
        return grids[0], torch.stack([grid.mean(dim=1) for grid in grids]).mean(dim=0)

    def part(self, whole: Tensor, look: int) -> Tensor:
        """What one look sees of normalised photos (B, 3, S, S), at their size: all, or all but 20 % at two sides."""
        if look == 0:
            return whole
        size = self.config.size
        part = round(0.8 * size)
        last = size - part
        top, left = ((0, 0), (last, last), (0, last), (last, 0))[look - 1]
        corner = whole[:, :, top : top + part, left : left + part]
        return F.interpolate(corner, size=(size, size), mode="bilinear", align_corners=False)

    def upper(self, maps: Tensor, blocks: Sequence[nn.Module]) -> Tensor:
        """Maps (B, C', h, w) before the backbone's last ``blocks`` -> (B, N, C)."""
        for block in blocks:
            maps = block(maps)
        return self._flat(maps)

    def embed(self, feature: Tensor) -> Tensor:
        """Mean features (B, C) -> unit vectors (B, D). What the backbone's own classifier names is added, as a convex
        combination of the names' vectors (Norouzi et al., 2014, https://arxiv.org/abs/1312.5650).
        """
        standard = (feature - self.feature_mean) / self.feature_std
        vector = F.normalize(self.projection(self.dropout(standard)), dim=-1)
        if self.config.classes:
            vector = F.normalize(vector + self.class_weight * self.named(feature), dim=-1)
        return vector

    def named(self, feature: Tensor) -> Tensor:
        """Mean features (B, C) -> the mean of the classes' vectors, as likely as each is (B, D)."""
        return cast(Tensor, self.classifier(feature).softmax(dim=-1) @ self.class_vectors)
