"""``diptych quantise`` as typed: a smaller artifact of the same kind, told apart from its source, or a refusal."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner, Result

from diptych.cli import app
from shared.artifacts import ModelManifest, fingerprint, verify_files
from shared.engines import Engine, images, open_engine
from tests.support.artifacts import model_manifest
from training.data import layouts

TEXTS = ["a red ball", "the dog runs on the beach with a child and a man in the snow", "snow", "a man plays"]
# Random weights find nothing to begin with, so recall says nothing here.
ANY_LOSS = ("--depth", 3, "--max-loss", 100)


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


@dataclass(frozen=True)
class Quantised:
    source: Path
    out: Path
    manifest: ModelManifest
    report: dict[str, Any]
    said: str


@pytest.fixture(scope="module")
def quantised(tiny_model: Path, drawn_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Quantised:
    folder = tmp_path_factory.mktemp("quantised")
    said = run(
        *("quantise", tiny_model, "--data", drawn_photos, "--out", folder / "model"),
        *(*ANY_LOSS, "--json", folder / "int8.json"),
    ).output
    report = json.loads((folder / "int8.json").read_text())
    return Quantised(tiny_model, folder / "model", model_manifest(folder / "model"), report, said)


@pytest.fixture(scope="module")
def int8(quantised: Quantised) -> Engine:
    return open_engine(quantised.out, device="cpu", threads=1)


@pytest.fixture(scope="module")
def photos(drawn_photos: Path, int8: Engine) -> npt.NDArray[np.uint8]:
    files = [image.path.read_bytes() for image in layouts.load(drawn_photos, "dev").images]
    return np.stack([images.pixels(file, int8.manifest.preprocessing) for file in files])


def cosines(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    norms = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    found: npt.NDArray[np.float32] = (one * other).sum(axis=-1) / norms
    return found


def test_it_finds_what_the_float_artifact_finds(
    quantised: Quantised, int8: Engine, photos: npt.NDArray[np.uint8]
) -> None:
    exact = open_engine(quantised.source, engine="onnx", device="cpu", threads=1)
    torch = open_engine(quantised.out, engine="torch", device="cpu", threads=1)
    for one, other in (
        (int8.embed_images(photos), exact.embed_images(photos)),
        (int8.embed_texts(TEXTS), exact.embed_texts(TEXTS)),
    ):
        np.testing.assert_allclose(np.linalg.norm(one.embedding, axis=1), 1, atol=1e-4)
        assert cosines(one.embedding, other.embedding).min() > 0.998
        assert not np.allclose(one.embedding, other.embedding, atol=1e-6)
        for left, right in zip(one.tokens, other.tokens, strict=True):
            assert cosines(left.dequantise(), right.dequantise()).min() > 0.99
    np.testing.assert_allclose(torch.embed_images(photos).embedding, int8.embed_images(photos).embedding, atol=1e-4)
    np.testing.assert_allclose(torch.embed_texts(TEXTS).embedding, int8.embed_texts(TEXTS).embedding, atol=1e-4)
    texts, places = int8.embed_texts(TEXTS).tokens, int8.embed_images(photos[:4]).tokens
    np.testing.assert_allclose(int8.rerank(texts, places), exact.rerank(texts, places), atol=1e-5)


def test_it_is_a_whole_smaller_artifact_that_says_what_it_is(quantised: Quantised) -> None:
    before = model_manifest(quantised.source)
    manifest = quantised.manifest
    verify_files(quantised.out, manifest)
    assert manifest.ref == "tiny/1-int8"
    assert manifest.fingerprint == fingerprint(quantised.out, manifest) != before.fingerprint
    assert manifest.training == {**before.training, "int8": {"from": "tiny/1", "fingerprint": before.fingerprint}}
    assert set(manifest.files) == set(before.files)
    sizes = [sum(file.bytes for file in one.files.values()) for one in (before, manifest)]
    assert sizes[1] < sizes[0]
    assert [quantised.report[key]["bytes"] for key in ("float", "int8")] == sizes


def test_weights_are_stored_in_int8_and_loaded_in_float(quantised: Quantised, tmp_path: Path) -> None:
    def stored(folder: Path) -> dict[str, npt.NDArray[Any]]:
        return load_file(folder / "towers.safetensors")

    before, after = stored(quantised.source), stored(quantised.out)
    small = [key for key, value in after.items() if value.dtype == np.int8]
    large = {key for key, value in before.items() if value.size >= 16_384 and value.ndim > 1 and value[0].size >= 32}
    assert set(small) == large and len(large) > 3
    for key in small:
        scales = after[f"{key}.scale"].astype(np.float32)[..., None]
        blocks = (*scales.shape[:2], -1)
        off = np.abs(after[key].reshape(blocks) * scales - before[key].reshape(blocks))
        assert off.shape[2] <= 32 and (off <= 0.51 * scales).all(), key
    for tower in ("image", "text"):
        loaded = [loaded_operators(folder / f"{tower}.onnx", tmp_path) for folder in (quantised.source, quantised.out)]
        assert loaded[0] == loaded[1]  # so it takes as long


def loaded_operators(graph: Path, folder: Path) -> Counter[str]:
    """The operators that ONNX Runtime is left with once it has folded what is constant."""
    import onnxruntime as ort  # after the engine, which tells it to report nothing

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "loaded.onnx")
    ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    loaded = onnx.load(options.optimized_model_filepath, load_external_data=False)
    return Counter(node.op_type for node in loaded.graph.node)


def test_the_report_has_both_side_by_side(quantised: Quantised) -> None:
    report = quantised.report
    assert report["command"].startswith(f"diptych quantise {quantised.source.name} --data ")
    assert (report["artifact"], report["quantised"]) == ("tiny/1", "tiny/1-int8")
    assert report["fingerprint"] == model_manifest(quantised.source).fingerprint
    for key in ("float", "int8"):
        side = report[key]
        assert side["cross"]["rerank_depth"] == 3
        for model in ("dual", "cross"):
            assert 0 <= side[model]["t2i"]["r1"] <= side[model]["t2i"]["r5"] <= 100
    assert {**quantised.manifest.metrics["dev"], "bytes": report["int8"]["bytes"]} == report["int8"]
    assert quantised.manifest.scoring.dual.scale not in (0.0, 1.0)
    assert "cross, image to text, R@1 / 5 / 10" in quantised.said
    assert "tiny/1-int8 is in" in quantised.said


def test_an_index_is_built_with_it_and_searched(quantised: Quantised, drawn_photos: Path, tmp_path: Path) -> None:
    store = ("--store", tmp_path / "store")
    run("publish", quantised.source, *store)
    run("publish", quantised.out, *store)
    done = run("index", "build", "--img-dir", drawn_photos, "--index-dir", tmp_path / "work", *store)
    assert "is being served" in done.stdout
    assert "tiny/1-int8" in run("artifacts", "list", *store).stdout
    found = run("search", "text", "a red ball on green", "--model-type", "cross", "-k", 3, "--json", *store)
    answer = json.loads(found.stdout)
    assert (answer["model_version"], len(answer["results"])) == ("tiny/1-int8", 3)


def refused(*arguments: object) -> str:
    stderr = run("quantise", *arguments, code=1).stderr
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    return stderr


def test_what_loses_too_much_is_not_written(tiny_model: Path, drawn_photos: Path, tmp_path: Path) -> None:
    """No more than a loss of -200 points is allowed, and nothing gains that much."""
    options = ("--data", drawn_photos, "--out", tmp_path / "out", "--depth", 3, "--max-loss", -200)
    error = refused(tiny_model, *options)
    assert "nothing was written: dual text to image loses" in error
    assert "cross image to text loses" in error
    assert "over --max-loss -200 points of R@1" in error
    assert not list(tmp_path.iterdir())


def test_an_int8_artifact_is_not_quantised_again(quantised: Quantised, drawn_photos: Path, tmp_path: Path) -> None:
    error = refused(quantised.out, "--data", drawn_photos, "--out", tmp_path / "out")
    assert "tiny/1-int8 is int8 already; give the artifact that it was made from" in error


def test_what_is_there_is_not_overwritten(quantised: Quantised, drawn_photos: Path) -> None:
    assert "already exists" in refused(quantised.source, "--data", drawn_photos, "--out", quantised.out)


def test_a_damaged_artifact_is_named(tiny_model: Path, drawn_photos: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    (copy / "text.onnx").unlink()
    assert "text.onnx is missing" in refused(copy, "--data", drawn_photos, "--out", tmp_path / "out", *ANY_LOSS)
    assert not (tmp_path / "out").exists()
