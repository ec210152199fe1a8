"""The torch modules. Nothing outside training, this room and the torch engine imports them."""

from shared.models.clip import ClipTowers
from shared.models.config import (
    ClipConfig,
    ClipImageConfig,
    ClipTextConfig,
    DiptychConfig,
    ImageTowerConfig,
    RerankerConfig,
    TextTowerConfig,
    TowersConfig,
)
from shared.models.diptych import RERANKER, Diptych, DualEncoder, Towers, load
from shared.models.grid_tower import GridTower
from shared.models.reranker import Reranker
from shared.models.text_tower import TextTower

__all__ = [
    "RERANKER",
    "ClipConfig",
    "ClipImageConfig",
    "ClipTextConfig",
    "ClipTowers",
    "Diptych",
    "DiptychConfig",
    "DualEncoder",
    "GridTower",
    "ImageTowerConfig",
    "Reranker",
    "RerankerConfig",
    "TextTower",
    "TextTowerConfig",
    "Towers",
    "TowersConfig",
    "load",
]
