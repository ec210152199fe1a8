"""CLIP-class models, as they are and fine-tuned, on their whole way to an answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner, Result

from diptych.cli import app
from shared.artifacts import ModelManifest, verify_files
from shared.engines import NoRerankerError, open_engine
from shared.engines.images import pixels
from shared.models import ClipTowers
from shared.scoring import probability
from tests.support.artifacts import model_manifest
from tests.support.clip import MEAN, opened, write_clip
from training import clip, cross, publish
from training.checkpoint import Checkpoint
from training.clip import ClipOptions
from training.cross import CrossOptions

QUIET = Console(quiet=True)
TEXTS = ["a red ball on green", "The car is blue -- isn't it?", "tree", "dog " * 100]


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_clip(tmp_path_factory.mktemp("clip") / "small")


@pytest.fixture(scope="module")
def imported(source: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as it is, without any data."""
    out = tmp_path_factory.mktemp("imported") / "model"
    done = run("import-clip", "--model", source, "--out", out, "--name", "small-clip")
    assert "small-clip/1 is in" in done.stdout
    return out


def test_an_imported_model_is_an_artifact_like_any_other(imported: Path) -> None:
    manifest = model_manifest(imported)
    verify_files(imported, manifest)
    assert set(manifest.files) == {"towers.safetensors", "image.onnx", "text.onnx", "tokenizer.json"}
    assert (manifest.embedding_dim, manifest.token_dim, manifest.has_reranker) == (32, 1, False)
    assert (manifest.preprocessing.size, manifest.preprocessing.mean) == (64, MEAN)
    assert manifest.tokenization.max_length == 24
    assert manifest.metrics["parity"]["rank_agreement"] == 1
    assert manifest.training == {"clip": {"model": "small", "weights": None}}
    assert str(imported.parent) not in (imported / "manifest.json").read_text()


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_the_served_vectors_are_open_clips(source: str, imported: Path, engine: str, drawn_photos: Path) -> None:
    served, reference = open_engine(imported, engine=engine, device="cpu", threads=1), opened(source)
    shown = [path.read_bytes() for path in sorted(drawn_photos.glob("*.jpg"))[:5]]
    seen = np.stack([pixels(data, served.manifest.preprocessing) for data in shown])
    normal = (torch.from_numpy(seen).permute(0, 3, 1, 2) / 255 - torch.tensor(MEAN).view(3, 1, 1)) / 0.25
    with torch.inference_mode():
        images = reference.encode_image(normal, normalize=True).numpy()
        ids = open_clip.SimpleTokenizer(context_length=24)(TEXTS)
        texts = reference.encode_text(ids, normalize=True).numpy()
    found = served.embed_texts(TEXTS)
    assert ((served.embed_images(seen).embedding * images).sum(axis=1) > 0.9999).all()
    assert ((found.embedding * texts).sum(axis=1) > 0.9999).all()
    assert [len(tokens) for tokens in found.tokens] == ((ids > 0).sum(dim=1)).tolist()
    with pytest.raises(NoRerankerError):
        served.rerank(found.tokens, found.tokens)


def test_without_data_scores_are_the_models_own_softmax(source: str, imported: Path) -> None:
    """The chance of a pair among a thousand that are no match is small, until it stands out from them."""
    scoring = model_manifest(imported).scoring.dual
    assert scoring.scale == pytest.approx(float(opened(source).logit_scale.exp()), rel=1e-3)
    usual = -(scoring.bias + np.log(1000)) / scoring.scale
    chances = probability(np.array([usual, usual + 10 / scoring.scale]), model_manifest(imported).scoring.dual)
    np.testing.assert_allclose(chances, [1 / 1001, 1 / (1 + 1000 * np.exp(-10))])


def test_an_imported_model_is_published_indexed_and_asked(imported: Path, drawn_photos: Path, tmp_path: Path) -> None:
    store = ("--store", tmp_path / "store")
    run("publish", imported, *store)
    captions = drawn_photos / "captions.jsonl"
    build = ("index", "build", "--img-dir", drawn_photos, "--cap-file", captions, "--index-dir", tmp_path / "work")
    assert "36 photos, 72 captions" in run(*build, *store).stdout
    answer = json.loads(run("search", "text", "a red ball", "-k", 36, "--json", *store).stdout)
    assert (answer["model_version"], len(answer["results"])) == ("small-clip/1", 36)
    photo = drawn_photos / "ball-red-green.jpg"
    answer = json.loads(run("search", "image", photo, "-k", 3, "--json", *store).stdout)
    assert len(answer["results"]) == 3
    assert "has no reranker" in run("search", "text", "a ball", "--model-type", "cross", *store, code=1).stderr


@dataclass(frozen=True)
class Tuned:
    options: ClipOptions
    metrics: dict[str, float]
    artifact: Path
    manifest: ModelManifest


@pytest.fixture(scope="module")
def tuned(source: str, drawn_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """Fine-tuned for two epochs, with a reranker of one."""
    folder = tmp_path_factory.mktemp("tuned")
    options = ClipOptions(
        data=drawn_photos, out=folder / "clip", model=source, epochs=2, batch_size=8, lr=1e-3, token_dim=16, warmup=1,
        device="cpu",
    )  # fmt: skip
    metrics = clip.train(options, QUIET)
    second = CrossOptions(
        data=drawn_photos, dual=options.out, out=folder / "cross", epochs=1, batch_size=8, embed_dim=32, layers=1,
        warmup=2, device="cpu",
    )  # fmt: skip
    cross.train(second, QUIET)
    artifact = folder / "artifact"
    manifest = publish.export_run(second.out, artifact, drawn_photos, name="tuned", version="1", depth=4, console=QUIET)
    return Tuned(options, metrics, artifact, manifest)


def _towers(run: Path) -> ClipTowers:
    towers = Checkpoint.load(run).model.towers
    assert isinstance(towers, ClipTowers)
    return towers


def test_fine_tuning_moves_both_towers_and_keeps_the_best_epoch(tuned: Tuned, source: str) -> None:
    log = [json.loads(line) for line in (tuned.options.out / "log.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in log] == [1, 2]
    assert log[1]["loss"] < log[0]["loss"]
    towers, before = _towers(tuned.options.out), opened(source)
    assert not torch.equal(towers.image.backbone.network.proj, before.visual.proj)  # type: ignore[arg-type]
    assert not torch.equal(towers.text.encoder.network.text_projection, before.text_projection)
    kept = torch.load(tuned.options.out / "best.pt", weights_only=True)["model"]
    assert torch.equal(towers.text.encoder.network.text_projection, kept["towers.text.encoder.network.text_projection"])
    assert towers.text_hubness is not None
    torch.testing.assert_close(towers.text_hubness.bank.norm(dim=1), torch.ones(24))


def test_a_fine_tuned_model_with_a_reranker_is_served(tuned: Tuned, drawn_photos: Path) -> None:
    verify_files(tuned.artifact, tuned.manifest)
    assert (tuned.manifest.embedding_dim, tuned.manifest.token_dim, tuned.manifest.has_reranker) == (36, 16, True)
    assert tuned.manifest.metrics["dev"]["cross"]["rerank_depth"] == 4
    assert tuned.manifest.scoring.dual.scale not in (0.0, 1.0)
    assert tuned.manifest.training["dual"]["model"] == "small"
    shown = sorted(drawn_photos.glob("*.jpg"))[: len(TEXTS)]
    results = []
    for name in ("onnx", "torch"):
        engine = open_engine(tuned.artifact, engine=name, device="cpu", threads=1)
        seen = np.stack([pixels(path.read_bytes(), engine.manifest.preprocessing) for path in shown])
        images, texts = engine.embed_images(seen), engine.embed_texts(TEXTS)
        assert {item.codes.shape for item in images.tokens} == {(16, 16)}
        results.append((images.embedding, texts.embedding, engine.rerank(texts.tokens, images.tokens)))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, atol=5e-3)


def test_no_epochs_leave_the_model_as_it_is(source: str, drawn_photos: Path, tmp_path: Path) -> None:
    arguments: tuple[Any, ...] = ("--data", drawn_photos, "--model", source, "--epochs", 0, "--out", tmp_path / "run")
    done = run("train", "clip", *arguments, "--device", "cpu")
    assert "diptych train cross" in done.stdout
    towers, before = _towers(tmp_path / "run"), opened(source)
    assert torch.equal(towers.text.encoder.network.text_projection, before.text_projection)
    assert torch.equal(towers.image.backbone.network.proj, before.visual.proj)  # type: ignore[arg-type]


def test_a_finished_run_is_not_trained_again(tuned: Tuned) -> None:
    log = (tuned.options.out / "log.jsonl").read_text()
    assert clip.train(tuned.options, QUIET) == tuned.metrics
    assert (tuned.options.out / "log.jsonl").read_text() == log


def test_an_import_with_data_is_calibrated_and_does_not_overwrite(
    source: str, drawn_photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    arguments = ("import-clip", "--model", source, "--out", out, "--data", drawn_photos)
    run(*arguments)
    manifest = model_manifest(out)
    assert 0 <= manifest.metrics["dev"]["dual"]["t2i"]["r1"] <= 100
    assert manifest.scoring.dual.scale != pytest.approx(float(opened(source).logit_scale.exp()), rel=1e-3)
    assert "already exists" in run(*arguments, code=1).stderr
    assert "no-such-model" in run("import-clip", "--model", "no-such-model", "--out", tmp_path / "x", code=1).stderr
