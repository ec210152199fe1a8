"""One set of real services for all end-to-end tests. A test that kills or switches something puts it back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from shared.client import Client
from tests.support.stack import Stack
from tests.support.store import Prepared, prepare


@pytest.fixture(scope="session")
def prepared(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("prepared"), tiny_model)


@pytest.fixture(scope="session")
def stack(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("stack"), prepared.store.root) as stack:
        yield stack


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    """Without retries: what fails is seen to fail."""
    with Client(stack.url("gateway"), retries=0) as client:
        yield client


@pytest.fixture
def http(stack: Stack) -> Iterator[httpx.Client]:
    """For what the client would not send."""
    with httpx.Client(base_url=stack.url("gateway"), timeout=30) as http:
        yield http


@pytest.fixture(scope="session")
def photo(prepared: Prepared) -> Path:
    """One of the photos of the collection."""
    return prepared.photos / "chelsea.png"
