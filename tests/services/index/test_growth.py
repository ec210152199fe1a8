"""An index service that is searched while its collection grows. ``python -m tests.support.growth`` makes it 100,000."""

from __future__ import annotations

from pathlib import Path

from tests.support.growth import run


def test_a_growing_collection_is_searched_exactly_all_the_time(tmp_path: Path) -> None:
    growth = run(tmp_path, items=300)
    assert (growth.items, growth.errors, growth.first_error, growth.recall) == (300, 0, None, 1)
    assert growth.searches > 0
