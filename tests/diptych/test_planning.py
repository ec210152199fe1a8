"""What is planned follows what was measured, and says what it rests on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diptych.planning import PlanError, Wanted, at, plan

_KINDS = {"flat": 2.0, "hnsw": 0.6, "ivf_sq8": 0.5, "ivf_pq": 0.2}  # kB an item


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    def write(name: str, **figures: Any) -> None:
        (tmp_path / f"{name}.json").write_text(json.dumps({"machine": {"cores": 2}, **figures}))

    def point(system: str, what: str, rate: float, **about: Any) -> dict[str, Any]:
        return {"system": system, "what": what, "throughput": rate, **about}

    write("encoder", points=[point("encoder", "text", 200.0)])
    write("rerank", points=[point("encoder", "rerank 50", 40.0)])
    write("gateway", points=[point("diptych", "text to image", 2000.0, cached=True)])
    write(
        "index",
        points=[point("index", "search", 400.0, batch=1), point("raw FAISS", "search", 2000.0, batch=1)],
        stored_bytes={"photo": 9000, "caption": 5000},
    )
    for items in (100_000, 400_000):
        points = [
            point(
                "diptych",
                kind,
                1000.0,
                p50_ms=1.0 * (items / 100_000) ** 0.5,
                disk_mb=kilobytes * items / 1000,
                build_seconds=items / 10_000,
                memory={"rss_mb": 100 + kilobytes * items / 1000},
            )
            for kind, kilobytes in _KINDS.items()
        ]
        write(f"scale-{items}", items=items, target=0.95, points=points)
    return tmp_path


def wanted(items: int, **more: Any) -> Wanted:
    return Wanted(**{"items": items, "qps": 70.0, "recall": 0.95, "memory_bytes": 16e9, **more})


def test_bytes_grow_straight_and_times_by_a_power(measured: Path) -> None:
    made = plan(wanted(1_600_000), measured)
    assert made.kind == "hnsw"
    assert made.value("memory of the index") == pytest.approx(100 + 0.6 * 1600)
    assert made.value("median of one search") == pytest.approx(4.0)
    assert made.value("time to make the shards") == pytest.approx(160)
    assert made.value("disk of the index") == pytest.approx(1.6 * (9000 + 2048) + 0.6 * 1600)
    assert any("4 times as many" in note for note in made.notes)


@pytest.mark.parametrize(
    ("items", "basis"), [(50_000, "extrapolated"), (100_000, "measured"), (200_000, "interpolated")]
)
def test_it_says_what_a_figure_rests_on(measured: Path, items: int, basis: str) -> None:
    assert plan(wanted(items, kind="ivf_sq8"), measured).lines[0].basis == basis


def test_cores_and_replicas_follow_the_questions(measured: Path) -> None:
    made = plan(wanted(100_000), measured)
    assert made.value("cores for the encoder") == pytest.approx(70 / 100 / 0.7)
    assert made.value("replicas of the encoder") == 1
    cross = plan(wanted(100_000, model_type="cross", qps=690.0), measured)
    assert cross.value("replicas of the encoder") == 30
    cached = plan(wanted(100_000, cached=1.0), measured)
    assert (cached.value("cores for the encoder"), cached.value("cores for the index")) == (0, 0)
    assert cached.value("cores for the gateway") > 0


def test_what_one_machine_cannot_hold_is_said(measured: Path) -> None:
    made = plan(wanted(100_000_000), measured)
    assert made.kind == "ivf_pq"
    assert any("one machine's 16.0 GB do not hold it" in note and "Milvus" in note for note in made.notes)


def test_more_recall_than_was_measured_is_said(measured: Path) -> None:
    assert any("recall" in note for note in plan(wanted(100_000, recall=0.99), measured).notes)


def test_what_is_missing_is_named(measured: Path, tmp_path: Path) -> None:
    (measured / "scale-100000.json").unlink()
    with pytest.raises(PlanError, match="it takes two sizes to tell how anything grows: make bench-scale ITEMS="):
        plan(wanted(100_000), measured)


def test_a_steeper_slope_than_any_is_noise() -> None:
    assert at({10: 1.0, 20: 1000.0}, 40, straight=False)[0] == pytest.approx(1000 * 2**1.5)
