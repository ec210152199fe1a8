"""An artifact store with three models: two that give different vectors, and one without a reranker."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.artifacts import ArtifactStore
from tests.support.variants import retrained, without_reranker


@pytest.fixture(scope="session")
def variants(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """tiny/1, tiny/2 (retrained) and tiny/3 (the towers of the first). Read-only."""
    folder = tmp_path_factory.mktemp("variants")
    return tiny_model, retrained(tiny_model, folder / "2", "2"), without_reranker(tiny_model, folder / "3", "3")


@pytest.fixture
def store(variants: tuple[Path, Path, Path], tmp_path: Path) -> ArtifactStore:
    """All three published, none active."""
    store = ArtifactStore(tmp_path / "store")
    for directory in variants:
        store.publish(directory)
    return store
