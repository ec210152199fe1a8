"""The page on performance: from the files alone, the same each time, every figure with its file and command."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.report import ReportError, write
from tests.support.stack import ROOT

COMMITTED = ROOT / "docs/performance"
_MACHINE = {"cpu": "A", "cores": 2, "memory_gb": 8.0, "system": "S", "python": "3", "versions": {"numpy": "2"}}


def _point(system: str, what: str, throughput: float, **about: Any) -> dict[str, Any]:
    return {"system": system, "what": what, "throughput": throughput, "p50_ms": 10.0, "p99_ms": 20.0, **about}


def _made() -> dict[str, Any]:
    dual = {"model_type": "dual", "concurrency": 16}
    gateway = [
        _point("diptych", "text to image", 75.0, cached=False, **dual),
        _point("diptych", "text to image", 1500.0, cached=True, **dual),
        _point("one process", "text to image", 100.0, cached=False, **dual),
    ]
    encoder = [
        _point("encoder", "text", 90.0, concurrency=64),
        _point("bare engine", "text", 80.0, batch=1),
        _point("bare engine", "text", 100.0, batch=8),
    ]
    under = {**_point("diptych", "", 95.0), "refused": 900, "failures": {}}
    overload = {
        "what": "text to image, dual",
        "peak": _point("diptych", "", 100.0),
        "after": _point("diptych", "", 99.0),
        "overload": under,
        "asked_per_second": 1000.0,
        "sent_per_second": 990.0,
        "goodput_of_peak": 0.95,
        "seconds": [95, 96, 94],
        "slopes_mb_per_minute": {"gateway": 0.1, "all": 0.1},
    }
    soak = {
        "points": [{**_point("diptych", "mix", 50.0), "seconds": 900}],
        "warm_up_seconds": 60,
        "slopes_mb_per_minute": {"gateway": 2.0, "all": 2.0},
        "memory": [(0.0, {"gateway": 90.0}), (60.0, {"gateway": 92.0})],
    }
    memory = {"gateway": {"rss_mb": 90.0, "peak_mb": 95.0}, "encoder": {"rss_mb": 200.0, "peak_mb": 210.0}}
    kinds = [
        _point("diptych", "ivf_sq8", 900.0, recall_at_10=0.96, memory=memory["gateway"], build_seconds=12.0),
        _point("raw FAISS", "ivf_sq8", 990.0, recall_at_10=0.9, memory=memory["gateway"]),
    ]
    served = _point("index service", "ivf_sq8", 300.0, recall_at_10=0.96, memory=memory["gateway"])
    scale = {"points": [*kinds, served], "service": served, "items": 1000, "target": 0.95, "source": "made captions"}
    return {
        "scale-1000": scale,
        "gateway": {"points": gateway, "memory": memory, "images": 8000},
        "encoder": {"points": encoder},
        "replicas": {"points": [_point("diptych", "", 50.0 * count, encoders=count) for count in (1, 2)]},
        "overload": {"overloads": [overload]},
        "chaos": {
            "kills": 500,
            "acknowledged": 7000,
            "lost": [],
            "phantoms": ["photo-3 after 7 kills"],
            "failed_starts": 0,
            "slowest_start_seconds": 2.5,
        },
        "soak": soak,
    }


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "performance"
    folder.mkdir()
    for name, figures in _made().items():
        origin = {"command": f"python -m benchmarks {name}", "measured": "2026-01-01", "machine": _MACHINE}
        (folder / f"{name}.json").write_text(json.dumps(origin | figures))
    return folder


def _page(results: Path) -> str:
    page = results.with_suffix(".md")
    write(results, page)
    return page.read_text(encoding="utf-8")


def _row(text: str, begins: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {begins}"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_a_page_is_the_same_each_time_and_names_every_file_with_its_command(results: Path) -> None:
    text = _page(results)
    first = {path.name: path.read_bytes() for path in results.iterdir()}
    assert _page(results) == text
    assert {path.name: path.read_bytes() for path in results.iterdir()} == first
    for path in results.glob("*.json"):
        command = json.loads(path.read_text())["command"]
        assert f"[`{path.name}`](performance/{path.name}), 2026-01-01: `{command}`" in text
    assert "| CPU | A |" in text


def test_what_was_wanted_is_compared_with_what_was_measured(results: Path) -> None:
    text = _page(results)
    assert _row(text, "text to image, dual, uncached, 16") == ["0.75 (75 / 100 a second)", "yes"]
    assert _row(text, "cached: at least 2,000") == ["1,500 a second with 16 callers", "**no**"]
    assert _row(text, "two encoder replicas") == ["2.00 (100 / 50 a second)", "yes"]
    assert _row(text, "text encoder over HTTP") == ["0.90 (90 / 100 a second)", "yes"]
    assert _row(text, "overload, text to image, dual: goodput") == ["0.95", "yes"]
    assert _row(text, "soak at full load") == ["+2.00 MB a minute over 15 minutes", "**no**"]
    assert _row(text, "all") == ["290", "305"]
    assert _row(text, "1,000 items through the index service") == ["10.00 ms, 0.960 (ivf_sq8)", "**no**"]
    assert _row(text, "raw FAISS") == ["ivf_sq8", "0.900", "10.00", "20.00", "990", "90.0", "-"]


def test_only_what_was_measured_is_shown(results: Path) -> None:
    for name in ("gateway", "overload", "soak"):
        (results / f"{name}.json").unlink()
    text = _page(results)
    assert "## The encoder" in text
    assert "## The whole path" not in text
    assert "## Soak" not in text


def test_other_machines_are_told_apart(results: Path) -> None:
    path = results / "soak.json"
    found = json.loads(path.read_text())
    found["machine"]["cpu"] = "B"
    path.write_text(json.dumps(found))
    assert "| measured on it | soak |" in _page(results)


def test_plots_can_be_read_on_white_and_on_black(results: Path) -> None:
    text = _page(results)
    for name in ("gateway", "encoder", "scale-1000", "overload", "soak"):
        drawn = (results / f"{name}.svg").read_text(encoding="utf-8")
        ElementTree.fromstring(drawn)
        assert not re.search(r"#(000000|ffffff)\b", drawn)
        assert f"](performance/{name}.svg)" in text


TROUBLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no files": (lambda at: list(map(Path.unlink, at.iterdir())), "holds no result files: make bench"),
    "a broken file": (lambda at: (at / "soak.json").write_text("{"), r"soak\.json cannot be read"),
    "no machine": (lambda at: (at / "soak.json").write_text('{"command": "c"}'), r"soak\.json has no machine"),
}


@pytest.mark.parametrize("trouble", TROUBLE)
def test_what_does_not_fit_is_named(results: Path, trouble: str) -> None:
    make, says = TROUBLE[trouble]
    make(results)
    with pytest.raises(ReportError, match=says):
        write(results, results.with_suffix(".md"))
    assert not results.with_suffix(".md").exists()


@pytest.mark.skipif(not COMMITTED.is_dir(), reason="nothing was measured yet")
def test_the_committed_page_is_what_the_committed_files_say(tmp_path: Path) -> None:
    again = tmp_path / "performance"
    again.mkdir()
    for path in COMMITTED.glob("*.json"):
        shutil.copy(path, again)
    write(again, tmp_path / "performance.md")
    committed = COMMITTED.with_suffix(".md").read_bytes()
    assert (tmp_path / "performance.md").read_bytes() == committed, "run make performance"
    for plot in again.glob("*.svg"):
        drawn, old = plot.read_text(), (COMMITTED / plot.name).read_text()
        release = re.search(r"Matplotlib v?[\d.]+", drawn)
        assert release is not None
        if release[0] in old:  # another release may draw another way
            assert drawn == old, "run make performance"


def test_the_lock_of_infinity_holds_versions_and_hashes_only() -> None:
    text = (ROOT / "benchmarks/infinity.txt").read_text()
    assert not re.search(r"://|@|--(extra-)?index-url|--find-links|-e ", text)
    entries = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    assert entries
    assert all(re.match(r"\S+==\S+ .*--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)
