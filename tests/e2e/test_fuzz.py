"""Whatever is thrown at the services, what comes back is what their descriptions promise. `make fuzz` throws more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import fuzz
from tests.support.stack import SERVICES, Stack
from tests.support.store import Prepared


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def stack(prepared: Prepared, directory: Path) -> Iterator[Stack]:
    with fuzz.stack(directory, prepared.store.root) as stack:
        yield stack


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_keeps_to_its_description(stack: Stack, directory: Path, name: str) -> None:
    done = fuzz.fuzz(stack, directory, name, examples=5, seed=1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " generated" in done.stdout
    assert '"unhandled"' not in stack.log(name)
