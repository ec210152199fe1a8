"""The torch modules. Nothing outside training, this room and the torch engine imports them."""

from shared.models.config import DiptychConfig, ImageTowerConfig, RerankerConfig, TextTowerConfig, TowersConfig
from shared.models.diptych import RERANKER, Diptych, Towers, load
from shared.models.reranker import Reranker
from shared.models.text_tower import TextTower

__all__ = [
    "RERANKER",
    "Diptych",
    "DiptychConfig",
    "ImageTowerConfig",
    "Reranker",
    "RerankerConfig",
    "TextTower",
    "TextTowerConfig",
    "Towers",
    "TowersConfig",
    "load",
]
