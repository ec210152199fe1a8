"""What the backbone's own classifier can name, said in the text tower's words: photos of things that no caption in the
training data speaks of are found by their names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from shared.models import DualEncoder, Towers, TowersConfig
from training.captions import map_by_length
from training.pretrained import Classifier

WEIGHTS = tuple(step / 10 for step in range(11))


@dataclass(frozen=True)
class Vectors:
    """A split in the shared space: unit vectors ``images`` (I, D) and ``texts`` (T, D)."""

    images: Tensor
    texts: Tensor

    @staticmethod
    @torch.no_grad()
    def of(towers: Towers, features: Tensor, means: Tensor) -> Vectors:
        """From the backbone's mean ``features`` (I, C) and the text tower's ``means`` over words (T, W)."""
        return Vectors(towers.image.embed(features), towers.text.embed(means))

    @torch.no_grad()
    def public(self, towers: DualEncoder) -> Vectors:
        """Less their hubness, as the model gives them out."""
        return Vectors(towers.photo_vectors(self.images), towers.text_vectors(self.texts))

    @property
    def similarity(self) -> npt.NDArray[np.float32]:
        """Cosines (I, T)."""
        return (self.images @ self.texts.T).cpu().numpy()


@torch.no_grad()
def attach(towers: Towers, classifier: Classifier, tokenizer: Tokenizer, quality: Callable[[Towers], float]) -> Towers:
    """The towers with the classifier in them.

    What it names counts as much as it can without a loss in ``quality``, measured on dev: dev's photos show what
    training's do, so what it is for cannot be seen there.
    """
    device = towers.log_scale.device
    image = towers.config.image.model_copy(update={"classes": len(classifier.names)})
    named = Towers(TowersConfig(**{**dict(towers.config), "image": image})).to(device).eval()
    named.load_state_dict(towers.state_dict(), strict=False)
    tower = named.image
    tower.classifier.weight.copy_(classifier.weight)
    tower.classifier.bias.copy_(classifier.bias)
    tower.class_vectors.copy_(_name_vectors(named, classifier.names, tokenizer, device))
    scores = {}
    for weight in WEIGHTS:
        tower.class_weight.fill_(weight)
        scores[weight] = quality(named)
    tower.class_weight.fill_(max(weight for weight in WEIGHTS if scores[weight] >= scores[0.0]))
    return named


def _name_vectors(towers: Towers, names: list[str], tokenizer: Tokenizer, device: torch.device) -> Tensor:
    """(classes, D): the text tower's vector of each name, less the mean of all, which says only that it is a photo."""
    tokenizer.enable_truncation(towers.config.text.max_length)
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch([f"a photo of a {name}" for name in names])
    ids = torch.tensor([one.ids for one in encoded], device=device)
    mask = torch.tensor([one.attention_mask for one in encoded], device=device)
    text = towers.text
    vectors = map_by_length(
        lambda rows, longest: text.embed(
            text.mean(text.hidden(ids[rows, :longest], mask[rows, :longest]), mask[rows, :longest])
        ),
        mask,
        100,
    )
    return vectors - vectors.mean(dim=0)
