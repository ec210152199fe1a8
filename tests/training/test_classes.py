"""What the backbone's classifier names goes into the photos' vectors, as far as dev allows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from shared.models import Diptych, ImageTowerConfig, TextTowerConfig, Towers, TowersConfig
from training import classes, export
from training.classes import Vectors
from training.data import vocabulary
from training.pretrained import Classifier

NAMES = ["lion", "rocket", "cup"]
WORDS = vocabulary.build([f"a photo of a {name}" for name in NAMES], min_count=1)
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)


@pytest.fixture
def towers() -> Towers:
    torch.manual_seed(0)
    image = ImageTowerConfig(backbone="test_efficientnet", size=64)
    text = TextTowerConfig(kind="gru", vocab_size=len(WORDS), width=16, max_length=12)
    return Towers(TowersConfig(embedding_dim=16, token_dim=8, image=image, text=text)).eval()


@pytest.fixture
def classifier() -> Classifier:
    return Classifier(NAMES, 20 * torch.randn(3, 256, generator=torch.Generator().manual_seed(1)), torch.zeros(3))


@pytest.fixture
@torch.no_grad()
def features(towers: Towers) -> Tensor:
    return towers.image.look(torch.from_numpy(PIXELS))[1]


MEANS = torch.randn(5, 16, generator=torch.Generator().manual_seed(2))


def _attach(
    towers: Towers, classifier: Classifier, features: Tensor, score: Callable[[Vectors], float]
) -> tuple[Towers, Vectors, Vectors]:
    before = Vectors.of(towers, features, MEANS)
    named = classes.attach(
        towers, classifier, vocabulary.tokenizer(WORDS), lambda named: score(Vectors.of(named, features, MEANS))
    )
    return named, before, Vectors.of(named, features, MEANS)


def test_names_count_as_much_as_costs_nothing(towers: Towers, classifier: Classifier, features: Tensor) -> None:
    """A score that forgives half of the way that the vectors could go."""
    _, start, end = _attach(towers, classifier, features, lambda _: 0.0)
    limit = np.abs(end.similarity - start.similarity).max() / 2

    def forgiving(vectors: Vectors) -> float:
        return float(np.abs(vectors.similarity - start.similarity).max() < limit)

    named, _, after = _attach(towers, classifier, features, forgiving)
    weight = float(named.image.class_weight)
    assert 0 < weight < 1
    assert forgiving(after)
    named.image.class_weight.fill_(weight + 0.1)
    assert not forgiving(Vectors.of(named, features, MEANS))


def test_names_that_only_harm_count_nothing(towers: Towers, classifier: Classifier, features: Tensor) -> None:
    start = Vectors.of(towers, features, MEANS).similarity
    named, before, after = _attach(
        towers, classifier, features, lambda vectors: -float(np.abs(vectors.similarity - start).max())
    )
    assert float(named.image.class_weight) == 0
    torch.testing.assert_close(after.images, before.images)


def test_the_rest_of_the_towers_is_as_it_was(towers: Towers, classifier: Classifier, features: Tensor) -> None:
    """A photo moves towards what the classifier calls it."""
    named, before, after = _attach(towers, classifier, features, lambda _: 0.0)
    assert float(named.image.class_weight) == 1
    for key, value in towers.state_dict().items():
        assert torch.equal(value, named.state_dict()[key]), key
    called = (features @ classifier.weight.T + classifier.bias).argmax(dim=1)
    names = F.normalize(named.image.class_vectors, dim=1)[called]
    assert ((after.images * names).sum(dim=1) > (before.images * names).sum(dim=1)).all()


def test_an_artifact_with_names_computes_what_the_modules_compute(
    towers: Towers, classifier: Classifier, features: Tensor, tmp_path: Path
) -> None:
    named, _, _ = _attach(towers, classifier, features, lambda _: 0.0)
    export.export(Diptych(named), vocabulary.tokenizer(WORDS), tmp_path / "m", name="m", vocabulary=WORDS)
    report = export.check_parity(tmp_path / "m", PIXELS, [f"a {name}" for name in NAMES])
    assert report["image_cosine"] > 0.9999
