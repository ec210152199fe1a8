"""Fixtures that more than one part of the tests uses."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.artifacts import tiny_artifact
from tests.support.photos import captioned_folder

# How long an example takes says more of the machine than of the code; each whole test has its time limit.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small real model artifact with a reranker. Read-only: copy it before changing it."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    tiny_artifact(folder)
    return folder


@pytest.fixture(scope="session")
def drawn_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 captioned photos in the plain layout. Read-only."""
    return captioned_folder(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="session")
def milvus_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Milvus Lite for all tests of the session; it starts when it is first asked and ends with the process."""
    return str(tmp_path_factory.mktemp("milvus") / "lite.db")
