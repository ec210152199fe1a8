"""The report: written from result files alone, the same each time, every figure with its file and command."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from string import Template
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

from diptych import shipped
from diptych.cli import app
from tests.support.stack import ROOT
from training.report import ReportError, write
from training.report.failures import sign_test

COMMITTED = ROOT / "docs/results"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(change(found) or found), encoding="utf-8")


@pytest.fixture(scope="module")
def measured(tiny_model: Path, drawn_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything measured on a small model, and two more seeds' figures that differ by known amounts."""
    folder = tmp_path_factory.mktemp("docs") / "results"
    about = ("--artifact", tiny_model, "--engine", "onnx")
    data = ("--data", drawn_photos, "--split", "train")
    for arguments in (
        ("evaluate", *data, "--model", "dual", *about, "--json", folder / "seed-0-dual.json"),
        ("evaluate", *data, "--model", "cross", *about, "--json", folder / "seed-0-cross.json"),
        ("measure", "depth", *data, "--depths", "3,24", *about, "--json", folder / "depth.json"),
        ("measure", "failures", *data, *about, "--json", folder / "failures.json"),
        ("measure", "gallery", *about, "--json", folder / "gallery.json"),
        ("measure", "tokens", *data, *about, "--json", folder / "tokens.json"),
        (
            *("quantise", tiny_model, "--data", drawn_photos, "--out", folder.parent / "int8"),
            *("--max-loss", 100, "--json", folder / "int8.json"),
        ),
        ("measure", "dataset", "--data", drawn_photos, "--json", folder / "dataset.json"),
    ):
        result = run(*arguments)
        assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    for name in ("ablations.json", "published.json"):
        shutil.copy(COMMITTED / name, folder)
    for seed, more in ((1, 3.0), (2, 6.0)):
        for model in ("dual", "cross"):
            found = json.loads((folder / f"seed-0-{model}.json").read_text())
            found |= {"fingerprint": f"of seed {seed}", "command": f"diptych evaluate for seed {seed}"}
            found["t2i"]["r1"] += more
            (folder / f"seed-{seed}-{model}.json").write_text(json.dumps(found))
    return folder


@pytest.fixture
def results(measured: Path, tmp_path: Path) -> Path:
    return shutil.copytree(measured, tmp_path / "results")


def _row(page: str, begins: str) -> list[str]:
    line = next(line for line in page.splitlines() if line.startswith(f"| {begins} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_a_page_is_the_same_each_time_and_names_every_file_with_its_command(results: Path, tiny_model: Path) -> None:
    done = run("measure", "report", results, "--model", tiny_model)
    assert done.exit_code == 0, done.output
    page = results.with_suffix(".md")
    first = {path.name: path.read_bytes() for path in (page, *results.iterdir())}
    write(results, tiny_model, page)
    assert {path.name: path.read_bytes() for path in (page, *results.iterdir())} == first
    text = page.read_text(encoding="utf-8")
    assert "$" not in text
    for path in results.glob("*.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        assert f"[`{path.name}`](results/{path.name})" in text
        if isinstance(found, dict):
            assert f"`{found['command']}`" in text


def test_the_headline_has_the_shipped_seed_and_the_spread_over_all(results: Path, tiny_model: Path) -> None:
    page = results.with_suffix(".md")
    write(results, tiny_model, page)
    text = page.read_text(encoding="utf-8")
    for model in ("dual", "cross"):
        r1 = json.loads((results / f"seed-0-{model}.json").read_text())["t2i"]["r1"]
        assert _row(text, f"**{model}**, shipped")[0] == f"{r1:.1f}"
        assert _row(text, f"{model}, mean of 3 seeds")[0] == f"{r1 + 3:.1f}"
        assert _row(text, f"{model}, lowest to highest")[0] == f"{r1:.1f} to {r1 + 6:.1f}"


@pytest.mark.parametrize(("mends", "breaks", "chance"), [(3, 3, 1), (5, 0, 2 / 32), (0, 5, 2 / 32), (3, 1, 10 / 16)])
def test_the_sign_test_counts_the_tosses(mends: int, breaks: int, chance: float) -> None:
    assert sign_test(mends, breaks) == pytest.approx(chance)


def test_gain_is_against_the_dual_encoder(results: Path, tiny_model: Path) -> None:
    def better(found: Any) -> None:
        alone, *_, deepest = found["depths"]
        deepest |= {"milliseconds": 12.34, **{way: dict(alone[way]) for way in ("t2i", "i2t")}}
        deepest["i2t"]["r10"] += 2.5

    edit(results / "depth.json", better)
    write(results, tiny_model, results.with_suffix(".md"))
    assert _row(results.with_suffix(".md").read_text(), "24")[-2:] == ["+2.5", "12.3"]


def test_a_distilled_model_is_shown_under_the_shipped_one_where_it_was_measured(
    results: Path, tiny_model: Path
) -> None:
    page = results.with_suffix(".md")
    write(results, tiny_model, page)
    assert "A smaller image tower" not in page.read_text()
    for model in ("dual", "cross"):
        found = json.loads((results / f"seed-0-{model}.json").read_text())
        found |= {"fingerprint": "of the student", "bytes": 31_400_000, "photo_milliseconds": 12.34}
        found["t2i"]["r1"] -= 1.5
        (results / f"distil-{model}.json").write_text(json.dumps(found))
    edit(results / "seed-0-cross.json", lambda found: found.pop("bytes") and None)
    write(results, tiny_model, page)
    text = page.read_text()
    for model in ("dual", "cross"):
        shipped, small = _row(text, f"{model}, shipped"), _row(text, f"**{model}**, distilled")
        assert float(shipped[0]) - float(small[0]) == pytest.approx(1.5, abs=0.11)
        assert shipped[1:6] == small[1:6]
        assert small[-2:] == ["31.4", "12.3"]
    assert _row(text, "cross, shipped")[-2] == "-"


def test_what_int8_costs_is_shown_as_far_as_it_was_measured(results: Path, tiny_model: Path) -> None:
    edit(results / "int8.json", lambda found: found["int8"].update(bytes=29_260_000))
    page = results.with_suffix(".md")
    write(results, tiny_model, page)
    text = page.read_text()
    exact, stored = _row(text, "exact"), _row(text, "stored")
    assert (exact[0], stored[0]) == ("576", "162")
    r1 = json.loads((results / "int8.json").read_text())["int8"]["dual"]["t2i"]["r1"]
    assert (_row(text, "dual, int8")[0], _row(text, "dual, int8")[-1]) == (f"{r1:.1f}", "29.3")
    (results / "int8.json").unlink()
    write(results, tiny_model, page)
    assert "## Eight bits" in page.read_text()
    (results / "tokens.json").unlink()
    write(results, tiny_model, page)
    assert "## Eight bits" not in page.read_text()


def test_a_comparison_of_variants_is_shown_side_by_side(results: Path, tiny_model: Path) -> None:
    found = {
        "command": "diptych measure pruning",
        "title": "Pruned weights",
        "all": {"t2i": {"r1": 29.0}, "bytes": 57000000, "milliseconds": 0.1234},
        "half": {"t2i": {"r1": 28.8}, "bytes": 29000000},
    }
    (results / "pruning.json").write_text(json.dumps(found))
    write(results, tiny_model, results.with_suffix(".md"))
    text = results.with_suffix(".md").read_text()
    assert "## Pruned weights" in text
    assert _row(text, "t2i r1") == ["29.0", "28.8"]
    assert _row(text, "bytes") == ["57,000,000", "29,000,000"]
    assert _row(text, "milliseconds") == ["0.123", "-"]


def test_plots_can_be_read_on_white_and_on_black(results: Path, tiny_model: Path) -> None:
    write(results, tiny_model, results.with_suffix(".md"))
    for name, words in (("depth", "candidates reranked (k)"), ("reliability", "share that are matches")):
        text = (results / f"{name}.svg").read_text(encoding="utf-8")
        root = ElementTree.fromstring(text)
        assert words in ["".join(found.itertext()) for found in root.iter("{http://www.w3.org/2000/svg}text")]
        assert not re.search(r"#(000000|ffffff)\b", text)
        assert f"](results/{name}.svg)" in results.with_suffix(".md").read_text(encoding="utf-8")


def _seed_2_is_seed_1(at: Path) -> None:
    for model in ("dual", "cross"):
        edit(at / f"seed-2-{model}.json", lambda found: {**found, "fingerprint": "of seed 1"})


TROUBLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file is missing": (lambda at: (at / "depth.json").unlink(), r"depth\.json is missing: make measure writes it"),
    "no seed": (lambda at: list(map(Path.unlink, at.glob("seed-*"))), r"has no seed-0-dual\.json"),
    "half a seed": (lambda at: (at / "seed-1-cross.json").unlink(), r"seed-1-cross\.json is missing"),
    "a broken file": (lambda at: (at / "gallery.json").write_text("{"), r"gallery\.json cannot be read"),
    "no command": (
        lambda at: edit(at / "dataset.json", lambda found: {**found, "command": ""}),
        "without a command, a commit or a source",
    ),
    "no source": (
        lambda at: edit(at / "ablations.json", lambda rows: [*rows, {"group": "g", "change": "c"}]),
        r"ablations\.json has figures without",
    ),
    "another model": (
        lambda at: edit(at / "gallery.json", lambda found: {**found, "fingerprint": "x"}),
        r"gallery\.json is about another model",
    ),
    "smaller than another model": (
        lambda at: edit(at / "int8.json", lambda found: {**found, "fingerprint": "x"}),
        r"int8\.json is about another model",
    ),
    "other data": (
        lambda at: edit(at / "seed-2-dual.json", lambda found: {**found, "images": 7}),
        r"different data \(images: 24, 7\)",
    ),
    "a seed twice": (
        _seed_2_is_seed_1,
        "two seeds are the same model",
    ),
    "a seed of two models": (
        lambda at: edit(at / "seed-2-dual.json", lambda found: {**found, "fingerprint": "x"}),
        "are about different models",
    ),
}


@pytest.mark.parametrize("trouble", TROUBLE)
def test_what_does_not_fit_is_named(results: Path, tiny_model: Path, trouble: str) -> None:
    make, says = TROUBLE[trouble]
    make(results)
    with pytest.raises(ReportError, match=says):
        write(results, tiny_model, results.with_suffix(".md"))
    assert not results.with_suffix(".md").exists()


def test_figures_of_another_model_than_the_one_that_ships_are_refused(results: Path) -> None:
    done = run("measure", "report", results, "--model", shipped.model())
    assert done.exit_code == 1
    assert "error: no seed in" in done.stderr


def test_the_committed_page_is_what_the_committed_files_say(tmp_path: Path) -> None:
    again = tmp_path / "results"
    again.mkdir()
    for path in COMMITTED.glob("*.json"):
        shutil.copy(path, again)
    write(again, shipped.model(), tmp_path / "results.md")
    assert (tmp_path / "results.md").read_bytes() == COMMITTED.with_suffix(".md").read_bytes(), "run make results"
    for plot in again.glob("*.svg"):
        drawn, committed = plot.read_text(), (COMMITTED / plot.name).read_text()
        release = re.search(r"Matplotlib v?[\d.]+", drawn)
        assert release is not None
        if release[0] in committed:  # another release may draw another way
            assert drawn == committed, "run make results"


def _recipes(*names: str) -> set[str]:
    """The commands that recipes run, as the result files would tell of them."""
    commands = set()
    for name in names:
        text = (ROOT / f"training/recipes/{name}.sh").read_text()
        for line, seed, model in product(re.findall(r"^\s*(diptych .*)$", text, re.M), "012", ("dual", "cross")):
            places = {"data": "flickr8k", "seed": seed, "model": model, "out": f"runs/flickr8k-{seed}"}
            commands.add(shlex.join(shlex.split(Template(line).safe_substitute(places))))
    return commands


def test_the_committed_files_are_written_by_the_recipes() -> None:
    commands = _recipes("measure", "flickr8k", "distil")
    for path in COMMITTED.glob("*.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            assert found["command"] in commands, f"no recipe writes {path.name}"


def test_no_caption_of_the_data_set_is_in_the_files() -> None:
    for path in COMMITTED.glob("failures.json"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r'"(caption|text)"', text)
