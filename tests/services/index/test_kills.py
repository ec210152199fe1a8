"""An index service that is killed while it is written to. ``make chaos`` does this hundreds of times."""

from __future__ import annotations

from pathlib import Path

from tests.support.kills import run


def test_no_acknowledged_change_is_lost_and_none_comes_from_nowhere(tmp_path: Path) -> None:
    outcome = run(tmp_path, kills=4, seed=1)
    assert (outcome.kills, outcome.lost, outcome.phantoms, outcome.failed_starts) == (4, [], [], 0)
    assert outcome.acknowledged > 0
