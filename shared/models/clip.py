"""CLIP-class joint encoders (Radford et al., 2021, https://arxiv.org/abs/2103.00020): open_clip's networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.artifacts import ArtifactError
from shared.models.config import ClipConfig, ClipImageConfig
from shared.models.grid_tower import GridTower
from shared.models.hubness import EXTRA, Docked


class ClipBackbone(nn.Module):
    """The image network: normalised pixels (B, 3, S, S) -> grid (B, C, h, w), vectors (B, D)."""

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network = network
        with torch.no_grad():
            grid, _ = self.eval()(torch.zeros(1, 3, size, size))
        self.train()
        self.channels: int = grid.shape[1]
        self.grid: tuple[int, int] = (grid.shape[2], grid.shape[3])

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        seen = cast(Any, self.network).forward_intermediates(pixels, indices=1)
        return seen["image_intermediates"][-1], seen["image_features"]


class ClipImage(GridTower):
    """A grid, and unit vectors (B, D) besides."""

    def __init__(self, config: ClipImageConfig, network: nn.Module, token_dim: int) -> None:
        backbone = ClipBackbone(network, config.size)
        super().__init__(config, backbone.grid)
        self.backbone = backbone
        channels = backbone.channels
        self.token_projection = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, token_dim))

    def embed(self, feature: Tensor) -> Tensor:
        """What :meth:`see` gave, or the mean of it over looks at one photo (B, D) -> unit vectors (B, D)."""
        return F.normalize(feature, dim=-1)

    def see(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised pixels (B, 3, S, S) -> grid (B, N, C), unit vectors (B, D)."""
        grid, vectors = self.backbone(pixels)
        return self._flat(grid), F.normalize(vectors.float(), dim=-1)


class ClipEncoder(nn.Module):
    """The text network: ids, mask (B, T) -> (B, T, width)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: Any = network
        self.width: int = cast(Any, network).width

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        network, length = self.network, ids.shape[1]
        if network.attn_mask is None:  # words see what follows them: always as much padding as in training
            ids = F.pad(ids, (0, network.context_length - length))
        causal = None if network.attn_mask is None else network.attn_mask[:length, :length]
        hidden = network.token_embedding(ids) + network.positional_embedding[: ids.shape[1]]
        return cast(Tensor, network.ln_final(network.transformer(hidden, attn_mask=causal))[:, :length])


class ClipText(nn.Module):
    """Token ids -> hidden (B, T, W) -> tokens (B, T, d), and unit vectors (B, D) from the last token's state."""

    def __init__(self, network: nn.Module, token_dim: int) -> None:
        super().__init__()
        self.encoder = ClipEncoder(network)
        self.token_projection = nn.Linear(self.encoder.width, token_dim)

    def read(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """int64 ids and mask (B, T) -> hidden (B, T, W), unit vectors (B, D)."""
        hidden = cast(Tensor, self.encoder(ids, mask))
        last = mask.sum(dim=1) - 1
        end = hidden[torch.arange(hidden.shape[0], device=hidden.device), last]
        return hidden, F.normalize((end @ self.encoder.network.text_projection).float(), dim=-1)

    def tokens(self, hidden: Tensor) -> Tensor:
        """(B, T, W) -> (B, T, d)."""
        return cast(Tensor, self.token_projection(hidden))


class ClipTowers(Docked):
    """A dual encoder whose towers were trained together. The token projections are ours, for a reranker to train."""

    def __init__(self, config: ClipConfig) -> None:
        """Raises ValueError for a network that open_clip cannot build, ArtifactError where it is not installed."""
        super().__init__(config.bank, config.embedding_dim - (EXTRA if config.bank else 0))
        self.config = config
        network = _built(config.network)
        self.image = ClipImage(config.image, network.visual, config.token_dim)
        self.text = ClipText(network.text, config.token_dim)
        self.log_scale = nn.Parameter(network.logit_scale.detach().reshape(()).clone())

    def encode_image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (B, H, W, 3) -> embedding (B, D), tokens (B, N, d)."""
        grid, vectors = self.see(self.image.normalise(pixels))
        return self.photo_vectors(vectors), self.image.tokens(grid)

    def encode_text(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """int64 ids and mask (B, T) -> embedding (B, D), tokens (B, T, d)."""
        hidden, vectors = self.read(ids, mask)
        return vectors, self.text.tokens(hidden)

    def see(self, pixels: Tensor, blocks: Sequence[nn.Module] = ()) -> tuple[Tensor, Tensor]:
        """As :meth:`shared.models.Towers.see`; ``blocks`` are all of the network, so it takes normalised pixels. The
        feature is the vector (B, D)."""
        return self.image.see(pixels)

    def read(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and mask (B, T) -> hidden (B, T, W), vectors (B, D)."""
        hidden, vectors = self.text.read(ids, mask)
        return hidden, self.text_vectors(vectors)


def _built(network: dict[str, Any]) -> Any:
    try:
        import open_clip
    except ModuleNotFoundError as error:
        raise ArtifactError(
            f"{error.name} is not installed: a CLIP-class model needs pip install open-clip-torch, "
            "or the onnx engine, which serves it without"
        ) from error
    try:
        built = open_clip.CustomTextCLIP(**network)
    except Exception as error:  # whatever its constructors say of a configuration that is not theirs
        raise ValueError(f"open_clip {open_clip.__version__} cannot build {network}: {error}") from error
    if isinstance(getattr(built.text, "text_projection", None), nn.Parameter):
        return built
    raise ValueError(f"{type(built.text).__name__} of {network['text_cfg']} is not CLIP's kind of text network")
