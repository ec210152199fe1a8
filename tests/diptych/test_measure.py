"""``diptych measure`` as typed: every file says how it was made, and its figures agree with each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from diptych import gallery
from diptych.cli import app


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


def measured(out: Path, *arguments: object) -> dict[str, Any]:
    run("measure", *arguments, "--json", out)
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def depth(tiny_model: Path, drawn_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("depth") / "depth.json"
    options = ("--split", "train", "--depths", "20, 3,24", "--artifact", tiny_model, "--engine", "onnx")
    return measured(out, "depth", "--data", drawn_photos, *options)


def test_a_file_says_how_it_was_made_without_saying_where(
    depth: dict[str, Any], tiny_model: Path, drawn_photos: Path
) -> None:
    assert depth["command"] == (
        f"diptych measure depth --data {drawn_photos.name} --split train --depths '20, 3,24' "
        f"--artifact {tiny_model.name} --engine onnx --json depth.json"
    )
    assert (depth["artifact"], depth["split"], depth["images"], depth["runtime"]) == ("tiny/1", "train", 24, "onnx cpu")


def test_each_depth_is_what_evaluate_measures_there(
    depth: dict[str, Any], tiny_model: Path, drawn_photos: Path, tmp_path: Path
) -> None:
    assert [row["depth"] for row in depth["depths"]] == [0, 3, 20, 24]
    assert [row["milliseconds"] > 0 for row in depth["depths"]] == [False, True, True, True]
    for row, model in ((depth["depths"][0], "dual"), (depth["depths"][1], "cross")):
        out = tmp_path / f"{model}.json"
        options = ("--split", "train", "--model", model, "--depth", 3, "--artifact", tiny_model, "--engine", "onnx")
        run("evaluate", "--data", drawn_photos, *options, "--json", out)
        report = json.loads(out.read_text())
        assert (report["t2i"], report["i2t"]) == (row["t2i"], row["i2t"])
        assert report["command"].startswith(
            f"diptych evaluate --data {drawn_photos.name} --split train --model {model}"
        )
        assert sum(part["count"] for part in report["reliability"]) == report["captions"] * 10
        gaps = sum(abs(p["mean_probability"] - p["share_of_matches"]) * p["count"] for p in report["reliability"])
        assert gaps / (report["captions"] * 10) == pytest.approx(report["expected_calibration_error"], abs=2e-4)
        # The tiny model's scale was never fitted; a fit on one half holds on the other.
        assert report["held_out_calibration_error"] < report["expected_calibration_error"]


@pytest.mark.parametrize("depths", ["", "0,5", "five", "5;10"])
def test_depths_that_are_none_are_a_usage_error(depths: str, drawn_photos: Path) -> None:
    assert "as in 5,10,20" in run("measure", "depth", "--data", drawn_photos, "--depths", depths, code=2).stderr


def test_the_gallery_is_asked_for_captions_examples_and_names(tiny_model: Path, tmp_path: Path) -> None:
    found = measured(tmp_path / "gallery.json", "gallery", "--artifact", tiny_model, "--engine", "onnx")
    captions = {caption: photo.name for photo in gallery.photos() for caption in photo.captions}
    assert (found["photos"], found["captions"]) == (len(gallery.photos()), len(captions))
    for model in ("dual", "cross"):
        missed = found["misses"][model]
        assert found[model]["t2i"]["r1"] == pytest.approx(100 * (1 - len(missed) / len(captions)))
        assert all(captions[miss["text"]] == miss["photos"][0] != miss["first"] for miss in missed)
        assert found["examples"][model]["queries"] == len(gallery.EXAMPLES)
        names = [found["names"][kind][model] for kind in ("imagenet", "other")]
        assert sum(kind["names"] for kind in names) == len(gallery.things())
        for kind in names:
            assert kind["r1"] == pytest.approx(100 * (1 - len(kind["misses"]) / kind["names"]), abs=1e-3)
            assert kind["r1"] <= kind["r5"]


def test_failures_are_counted_and_no_caption_is_shown(tiny_model: Path, drawn_photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "failures.json"
    options = ("--split", "dev", "--worst", 2, "--artifact", tiny_model, "--engine", "onnx")
    found = measured(out, "failures", "--data", drawn_photos, *options)
    kinds: dict[str, int] = {}
    for row in found["kinds"]:
        kinds[row["kind"]] = kinds.get(row["kind"], 0) + row["captions"]
    assert set(kinds.values()) == {12}  # every question is asked of every caption
    wrong = found["hubs"]["dual"]["wrong_firsts"]
    assert found["ranks"]["dual"]["first"] == pytest.approx(100 * (1 - wrong / 12), abs=0.01)
    mended = found["reranking"]["mends"] - found["reranking"]["breaks"]
    assert found["hubs"]["cross"]["wrong_firsts"] == wrong - mended
    assert [sorted(worst) for worst in found["worst"]] == [["photo", "rank"]] * 2
    captions = (drawn_photos / "captions.jsonl").read_text().splitlines()
    assert not any(text in out.read_text() for line in captions for text in json.loads(line)["captions"])


def test_a_data_set_is_counted_split_by_split(drawn_photos: Path, tmp_path: Path) -> None:
    found = measured(tmp_path / "dataset.json", "dataset", "--data", drawn_photos)
    assert {name: part["images"] for name, part in found["splits"].items()} == {"train": 24, "dev": 6, "test": 6}
    train = found["splits"]["train"]
    assert (train["captions"], train["captions_per_image"], train["repeated_captions"]) == (48, [2, 2], 0)
    assert train["sizes"] == [{"width": 120, "height": 90, "images": 24}]
    assert train["kinds"]["says a colour"] == {"yes": 1, "no": 0}
    assert train["commonest"][0]["share_of_images"] == 1
    assert found["absent"] == []


def test_a_split_that_is_not_there_is_named(tmp_path: Path, drawn_photos: Path) -> None:
    rows = [json.loads(line) for line in (drawn_photos / "captions.jsonl").read_text().splitlines()]
    for row in rows:
        (tmp_path / row["image"]).symlink_to(drawn_photos / row["image"])
    kept = [json.dumps(row) for row in rows if row["split"] != "test"]
    (tmp_path / "captions.jsonl").write_text("\n".join(kept))
    assert measured(tmp_path / "out.json", "dataset", "--data", tmp_path)["absent"] == ["test"]
    assert "is not a folder" in run("measure", "dataset", "--data", tmp_path / "none", code=1).stderr
