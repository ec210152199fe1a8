"""The whole model: two towers that never meet, and a reranker where they do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from shared.artifacts import ArtifactError, ModelManifest, read_manifest
from shared.artifacts.manifest import TOWERS
from shared.models.clip import ClipTowers
from shared.models.config import DiptychConfig, TowersConfig
from shared.models.hubness import EXTRA, Docked
from shared.models.image_tower import ImageTower
from shared.models.reranker import Reranker
from shared.models.text_tower import TextTower

RERANKER = "reranker.safetensors"
SCALE_SUFFIX = ".scale"


class Towers(Docked):
    """The dual encoder. ``log_scale`` is the logarithm of the inverse temperature (Radford et al., 2021)."""

    def __init__(self, config: TowersConfig) -> None:
        dim = config.embedding_dim - (EXTRA if config.bank else 0)
        super().__init__(config.bank, dim)
        self.config = config
        self.image = ImageTower(config.image, dim, config.token_dim)
        self.text = TextTower(config.text, dim, config.token_dim)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def encode_image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (B, H, W, 3) -> embedding (B, D), tokens (B, N, d)."""
        grid, feature = self.image.look(pixels)
        return self.photo_vectors(self.image.embed(feature)), self.image.tokens(grid)

    def encode_text(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """int64 ids and mask (B, T) -> embedding (B, D), tokens (B, T, d)."""
        hidden, vectors = self.read(ids, mask)
        return vectors, self.text.tokens(hidden)

    def see(self, maps: Tensor, blocks: Sequence[nn.Module]) -> tuple[Tensor, Tensor]:
        """One look as maps before the backbone's last ``blocks`` -> grid (B, N, C), and its feature (B, C)."""
        grid = self.image.upper(maps, blocks)
        return grid, grid.float().mean(dim=1)

    def read(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and mask (B, T) -> hidden (B, T, W), vectors (B, D)."""
        hidden = self.text.hidden(ids, mask)
        return hidden, self.text_vectors(self.text.embed(self.text.mean(hidden.float(), mask)))


DualEncoder = Towers | ClipTowers


class Diptych(nn.Module):
    """Towers and, when there is one, the reranker."""

    def __init__(self, towers: DualEncoder, reranker: Reranker | None = None) -> None:
        super().__init__()
        self.towers = towers
        self.reranker = reranker

    @staticmethod
    def build(config: DiptychConfig) -> Diptych:
        """With fresh weights."""
        towers = config.towers
        return Diptych(
            Towers(towers) if isinstance(towers, TowersConfig) else ClipTowers(towers),
            Reranker(config.reranker) if config.reranker else None,
        )

    @property
    def config(self) -> DiptychConfig:
        return DiptychConfig(
            towers=self.towers.config, reranker=self.reranker.config if self.reranker is not None else None
        )

    def encode_image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return self.towers.encode_image(pixels)

    def encode_text(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.towers.encode_text(ids, mask)


def load(directory: Path) -> Diptych:
    """Build an artifact's modules and fill them, in float32 and evaluation mode.

    Raises :class:`ArtifactError` when the manifest's architecture cannot be built or the weights do not fit it.
    """
    manifest = cast(ModelManifest, read_manifest(directory))
    try:
        model = Diptych.build(DiptychConfig.model_validate(manifest.config))
    except ValueError as error:
        raise ArtifactError(f"{directory}: its architecture is not one that this version can build: {error}") from error
    parts: list[tuple[nn.Module, str]] = [(model.towers, TOWERS)]
    if model.reranker is not None:
        parts.append((model.reranker, RERANKER))
    for module, name in parts:
        try:
            module.load_state_dict(_read(directory / name))
        except (OSError, SafetensorError) as error:
            raise ArtifactError(f"{directory / name} cannot be read: {error}") from error
        except RuntimeError as error:
            raise ArtifactError(f"{directory / name} does not fit the architecture in its manifest: {error}") from error
    return model.eval()


def _read(path: Path) -> dict[str, Tensor]:
    """Stored weights as float32; int8 ones are multiplied by the scales of their rows, or of their rows' blocks."""
    stored = load_file(path)
    weights: dict[str, Tensor] = {}
    for key, value in stored.items():
        if key.endswith(SCALE_SUFFIX) and key.removesuffix(SCALE_SUFFIX) in stored:
            continue
        scale = stored.get(key + SCALE_SUFFIX)
        if scale is not None:
            weights[key] = (value.float().view(*scale.shape, -1) * scale.float()[..., None]).view(value.shape)
        else:
            weights[key] = value.float() if value.is_floating_point() else value
    return weights
