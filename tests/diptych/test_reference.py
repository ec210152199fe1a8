"""The reference pages say what the code says, and the code says something about everything on them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from diptych import reference
from diptych.cli import app
from diptych.reference import commands, metrics, settings
from tests.support.stack import ROOT

COMMITTED = ROOT / "docs/reference"


@pytest.mark.parametrize("name", reference.PAGES)
def test_the_committed_page_is_what_the_code_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # What somebody has set is no default.
    monkeypatch.setenv("DIPTYCH_GATEWAY_MAX_K", "7")
    monkeypatch.setenv("DIPTYCH_STORE", "/elsewhere")
    assert reference.PAGES[name]() == (COMMITTED / name).read_text(encoding="utf-8"), "run make reference"


def test_no_page_is_left_of_what_is_no_more(tmp_path: Path) -> None:
    reference.write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in COMMITTED.iterdir()}


@pytest.mark.parametrize("name", ["commands.md", "metrics.md", "settings.md"])
def test_nothing_goes_unexplained(name: str) -> None:
    rows = [line for line in (COMMITTED / name).read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert rows
    assert [row for row in rows if row.endswith("|  |")] == []
    assert [row for row in rows if re.search(r"\| \[[^]]*\] \|$", row)] == [], "a default or bound, but no meaning"


def test_every_setting_is_there_under_the_name_that_sets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (COMMITTED / "settings.md").read_text(encoding="utf-8")
    for service, kind in settings.SERVICES.items():
        for name in kind.model_fields:
            own, shared = f"`DIPTYCH_{service.upper()}_{name.upper()}`", f"`DIPTYCH_{name.upper()}`"
            assert own in page or shared in page, name
    monkeypatch.setenv("DIPTYCH_ENCODER_MAX_TEXT_BATCH", "5")
    monkeypatch.setenv("DIPTYCH_LOG_LEVEL", "debug")
    encoder = settings.SERVICES["encoder"]()
    assert (encoder.log_level, encoder.model_dump()["max_text_batch"]) == ("debug", 5)


def test_every_metric_in_the_source_is_there() -> None:
    sources = [path.read_text() for room in ("services", "shared") for path in (ROOT / room).rglob("*.py")]
    made = {name for text in sources for name in re.findall(r"(?:Counter|Gauge|Histogram|Summary)\(\s*\"(\w+)\"", text)}
    listed = {metrics.name(metric) for place in ("shared", *metrics.SERVICES) for metric in metrics.found(place)}
    assert made == listed
    page = (COMMITTED / "metrics.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in made)


def test_every_subcommand_is_there_once() -> None:
    import typer

    page = (COMMITTED / "commands.md").read_text(encoding="utf-8")
    names = [name for name, _ in commands.leaves(typer.main.get_command(app), "diptych")]
    assert re.findall(r"^## `(.*)`$", page, re.M) == names
    assert "diptych up" in names
