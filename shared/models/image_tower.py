"""The image tower: a convolutional or transformer backbone, attention over its grid, one vector and a few tokens."""

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


class ImageTower(nn.Module):
    """Pixels -> ``grid`` (B, N, C) -> tokens (B, N, d), and ``hidden`` (B, N, width) -> embedding (B, D).

    Where the backbone's first blocks are frozen, their output can be kept; ``upper`` goes on from there.
    """

    mean: Tensor
    std: Tensor
    class_vectors: Tensor
    class_weight: Tensor

    def __init__(self, config: ImageTowerConfig, embedding_dim: int, token_dim: int) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config.library, config.backbone, config.size)
        self.side = min(config.grid, *self.backbone.grid)
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(3, 1, 1), persistent=False)
        self.input = nn.Sequential(nn.Linear(self.backbone.channels, config.width), nn.LayerNorm(config.width))
        self.position = nn.Parameter(torch.randn(self.side**2, config.width) * 0.02)
        self.attention = nn.ModuleList(
            nn.TransformerEncoderLayer(
                config.width,
                config.heads,
                2 * config.width,
                config.dropout,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self.pool = nn.Linear(config.width, 1)
        self.projection = nn.Linear(config.width, embedding_dim)
        self.token_projection = nn.Sequential(
            nn.LayerNorm(self.backbone.channels), nn.Linear(self.backbone.channels, token_dim)
        )
        if config.classes:
            self.classifier = nn.Linear(self.backbone.channels, config.classes).requires_grad_(False)
            self.register_buffer("class_vectors", torch.zeros(config.classes, embedding_dim))
            self.register_buffer("class_weight", torch.zeros(()))

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) -> float (B, 3, H, W)."""
        return (pixels.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std

    def grid_features(self, pixels: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) -> (B, N, C)."""
        return self._tokens_of(self.backbone(self.normalise(pixels)))

    def upper(self, maps: Tensor, blocks: Sequence[nn.Module]) -> Tensor:
        """Maps (B, C', h, w) before the backbone's last ``blocks`` -> (B, N, C)."""
        for block in blocks:
            maps = block(maps)
        return self._tokens_of(maps)

    def _tokens_of(self, grid: Tensor) -> Tensor:
        if grid.shape[-1] > self.side:
            grid = F.adaptive_avg_pool2d(grid, self.side)
        return grid.flatten(2).transpose(1, 2)

    def hidden(self, grid: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, width)."""
        hidden = self.input(grid) + self.position
        for layer in self.attention:
            hidden = layer(hidden)
        return cast(Tensor, self.norm(hidden))

    def embed(self, hidden: Tensor, grid: Tensor) -> Tensor:
        """(B, N, width) with the (B, N, C) it came from -> unit vectors (B, D): a learned weight per place, softmax
        over the grid. What the backbone's own classifier names is added, as a convex combination of the names' vectors
        (Norouzi et al., 2014, https://arxiv.org/abs/1312.5650).
        """
        weights = self.pool(hidden).softmax(dim=1)
        vector = F.normalize(self.projection((weights * hidden).sum(dim=1)), dim=-1)
        if self.config.classes:
            vector = F.normalize(vector + self.class_weight * self.named(grid.mean(dim=1)), dim=-1)
        return vector

    def named(self, feature: Tensor) -> Tensor:
        """The backbone's mean feature (B, C) -> the mean of the classes' vectors, as likely as each is (B, D)."""
        return cast(Tensor, self.classifier(feature).softmax(dim=-1) @ self.class_vectors)

    def tokens(self, grid: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, d): the backbone's view, so that the reranker has other eyes than the vectors."""
        return cast(Tensor, self.token_projection(grid))
