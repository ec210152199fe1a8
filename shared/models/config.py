"""What it takes to build the modules again: kept in the manifest, hashed into the fingerprint."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ImageTowerConfig(_Config):
    """``library`` and ``backbone`` name a torchvision or timm architecture; ``mean``/``std`` are on the 0..1 scale.

    The backbone's grid is averaged down to at most ``grid`` x ``grid`` tokens. The vector is made of ``looks`` at
    the photo: the whole, then crops of its corners. ``dropout`` is that of the mean feature. ``classes`` is how many
    things the backbone's own classifier can name, if that is kept.
    """

    library: Literal["timm", "torchvision"] = "timm"
    backbone: str = "tf_efficientnet_lite2"
    size: int = Field(224, ge=32)
    mean: tuple[float, float, float] = (127 / 255, 127 / 255, 127 / 255)
    std: tuple[float, float, float] = (128 / 255, 128 / 255, 128 / 255)
    grid: int = Field(7, ge=1)
    looks: int = Field(1, ge=1, le=5)
    dropout: float = 0.4
    classes: int = Field(0, ge=0)


class TextTowerConfig(_Config):
    """``bert``: a pretrained encoder, ``bert`` holding its transformers config. ``transformer`` and ``gru``: from
    scratch, on ``vocab_size`` words, ``width`` wide. ``mean_dropout`` is that of the mean over words."""

    kind: Literal["bert", "transformer", "gru"] = "bert"
    max_length: int = Field(48, ge=4)
    vocab_size: int = 30522
    width: int = 384
    layers: int = 4
    heads: int = 6
    dropout: float = 0.1
    mean_dropout: float = 0.2
    bert: dict[str, Any] = Field(default_factory=dict)


class TowersConfig(_Config):
    """``bank`` is how many vectors of the other side each vector's hubness is judged by; 0 for none."""

    embedding_dim: int = Field(512, ge=8)
    bank: int = Field(0, ge=0)
    token_dim: int = Field(128, ge=1)
    image: ImageTowerConfig = ImageTowerConfig()
    text: TextTowerConfig = TextTowerConfig()


class ClipImageConfig(_Config):
    """As in :class:`ImageTowerConfig`."""

    size: int = Field(224, ge=32)
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    grid: int = Field(7, ge=1)


class ClipTextConfig(_Config):
    max_length: int = Field(77, ge=4)


class ClipConfig(_Config):
    """A CLIP-class joint encoder. ``network`` is what open_clip calls its ``model_cfg``; the rest is as in
    :class:`TowersConfig`."""

    network: dict[str, Any]
    embedding_dim: int = Field(ge=8)
    bank: int = Field(0, ge=0)
    token_dim: int = Field(128, ge=1)
    image: ClipImageConfig
    text: ClipTextConfig = ClipTextConfig()


class RerankerConfig(_Config):
    """``width`` is the seed's ``--embed_dim``."""

    token_dim: int = 128
    width: int = 256
    layers: int = 2
    heads: int = 4
    dropout: float = 0.1


class DiptychConfig(_Config):
    towers: TowersConfig | ClipConfig = TowersConfig()
    reranker: RerankerConfig | None = None
