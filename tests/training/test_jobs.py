"""The whole way from captioned photos to a published model's figures, on the real jobs in small."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from transformers import BertConfig, BertModel

from shared.artifacts import ArtifactError, ModelManifest, read_manifest, verify_files
from shared.engines import open_engine
from shared.models import Towers
from training import cross, dual, evaluate, photos, publish
from training.checkpoint import Checkpoint, CheckpointError
from training.cross import CrossOptions
from training.data import layouts, vocabulary
from training.dual import DualOptions
from training.trainer import Metrics, ResumeError

QUIET = Console(quiet=True)
# How each run below starts: text tower (BERT's is a small one), and how many of the backbone's blocks are trained.
STARTS: dict[str, dict[str, Any]] = {
    "gru on a frozen backbone": {"text": "gru", "train_blocks": 0},
    "bert and a backbone trained in part": {"text": "bert", "train_layers": 1, "train_blocks": 3, "views": 3},
    "transformer on a trained backbone": {"text": "transformer", "train_blocks": -1, "image_lr_scale": 0.5},
}


@dataclass(frozen=True)
class Finished:
    dual: DualOptions
    cross: CrossOptions
    metrics: dict[str, Metrics]
    artifact: Path
    manifest: ModelManifest


def _options(data: Path, out: Path, **start: Any) -> DualOptions:
    small = {"image_backbone": "test_efficientnet", "image_weights": "none", "image_size": 64, "head_epochs": 5}
    size = {"embed_dim": 32, "token_dim": 16, "lr": 1e-3, "epochs": 3, "batch_size": 8, "warmup": 2, "device": "cpu"}
    return DualOptions(data=data, out=out, **{**small, **size, **start})


@pytest.fixture(scope="module", params=STARTS)
def finished(request: pytest.FixtureRequest, drawn_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("runs")
    _small_bert(folder / "bert", drawn_photos)
    first = _options(drawn_photos, folder / "dual", text_weights=str(folder / "bert"), **STARTS[request.param])
    metrics = {"dual": dual.train(first, QUIET)}
    second = CrossOptions(
        data=drawn_photos,
        dual=first.out,
        out=folder / "cross",
        epochs=1,
        batch_size=8,
        embed_dim=32,
        layers=1,
        warmup=2,
        negatives=50,  # more than there are
        device="cpu",
    )
    metrics["cross"] = cross.train(second, QUIET)
    manifest = publish.export_run(
        second.out, folder / "artifact", drawn_photos, name="drawn", version="1", depth=4, console=QUIET
    )
    return Finished(first, second, metrics, folder / "artifact", manifest)


def _small_bert(folder: Path, data: Path) -> None:
    """What `--text-weights` takes: a BERT with random weights, whose words are those of the captions."""
    words = vocabulary.build(text for image in layouts.load(data, "train").images for text in image.captions)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    config: dict[str, Any] = {**size, "vocab_size": len(words), "max_position_embeddings": 48, "hidden_act": "gelu"}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    vocabulary.tokenizer(words).save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    save_file(BertModel(BertConfig(**config), add_pooling_layer=False).state_dict(), folder / "model.safetensors")


def _log(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_the_dual_encoder_learns_and_keeps_its_best_epoch(finished: Finished) -> None:
    log = _log(finished.dual.out)
    assert [entry["epoch"] for entry in log] == [1, 2, 3]
    assert log[-1]["loss"] < log[0]["loss"]
    kept = torch.load(finished.dual.out / "best.pt", weights_only=True)
    assert kept["metrics"].items() <= max(log, key=_quality).items()
    checkpoint = Checkpoint.load(finished.dual.out)
    towers = checkpoint.model.towers
    assert isinstance(towers, Towers)
    weight = kept["model"]["towers.image.projection.weight"]
    assert torch.equal(towers.image.projection.weight, weight)
    assert towers.text_hubness is not None
    torch.testing.assert_close(towers.text_hubness.bank.norm(dim=1), torch.ones(towers.config.bank))
    assert checkpoint.metrics["dual"] == finished.metrics["dual"]
    assert checkpoint.model.reranker is None
    assert "ball" in checkpoint.tokenizer.get_vocab()
    assert (checkpoint.words is None) == (finished.dual.text == "bert")


def _quality(entry: dict[str, Any]) -> float:
    return float(sum(entry[f"{way}_r{k}"] for way in ("t2i", "i2t") for k in (1, 5, 10)))


def test_only_the_trained_blocks_move_and_what_the_others_see_is_computed_once(finished: Finished) -> None:
    torch.manual_seed(finished.dual.seed)
    untrained, _, _ = dual._start(finished.dual, layouts.load(finished.dual.data, "train"))
    trained = Checkpoint.load(finished.dual.out).model.towers
    sides = zip(*(photos.divide(towers, finished.dual.train_blocks) for towers in (untrained, trained)), strict=True)
    for (before, after), moves in zip(sides, (False, True), strict=True):
        for old, new in zip(before, after, strict=True):
            if list(old.parameters()):
                assert moves != all(torch.equal(*pair) for pair in zip(old.parameters(), new.parameters(), strict=True))
    kept = list((finished.dual.out / "cache").glob("maps-*"))
    assert [path.suffix for path in kept] == ([] if finished.dual.train_blocks < 0 else [".npy"] * 2)  # train and dev


def test_only_the_trained_layers_of_a_bert_move(finished: Finished) -> None:
    if finished.dual.text != "bert":
        return
    before, _, _ = dual._start(finished.dual, layouts.load(finished.dual.data, "train"))
    after = Checkpoint.load(finished.dual.out).model.towers
    new = dict(after.text.encoder.named_parameters())
    moved = {name for name, old in before.text.encoder.named_parameters() if not torch.equal(old, new[name])}
    assert {name.split(".attention")[0] for name in moved if ".attention" in name} == {"bert.encoder.layer.1"}
    assert all(name.startswith("bert.encoder.layer.1.") for name in moved)
    assert len(list((finished.dual.out / "cache").glob("states-*.npy"))) == 2  # train and dev


def test_more_layers_than_there_are_cannot_be_trained(finished: Finished, tmp_path: Path) -> None:
    options = replace(finished.dual, text="bert", train_layers=2, out=tmp_path)
    with pytest.raises(ValueError, match="has 2 layers: to train them all, say --train-layers -1"):
        dual.train(options, QUIET)


def test_the_reranker_is_trained_on_the_towers_as_they_are(finished: Finished) -> None:
    before, after = Checkpoint.load(finished.dual.out), Checkpoint.load(finished.cross.out)
    assert after.model.reranker is not None
    moved = {
        key
        for key, value in before.model.towers.state_dict().items()
        if not torch.equal(value, after.model.towers.state_dict()[key])
    }
    assert moved == {key for key in before.model.towers.state_dict() if ".token_projection." in key}
    assert after.metrics == {"dual": finished.metrics["dual"], "cross": finished.metrics["cross"]}
    assert set(after.training) == {"dual", "cross"}


def test_the_artifact_is_whole_measured_and_calibrated(finished: Finished) -> None:
    verify_files(finished.artifact, finished.manifest)
    assert read_manifest(finished.artifact) == finished.manifest
    assert (finished.manifest.ref, finished.manifest.has_reranker) == ("drawn/1", True)
    dev = finished.manifest.metrics["dev"]
    assert dev["parity"]["rank_agreement"] == 1
    assert dev["cross"]["rerank_depth"] == 4
    for model in ("dual", "cross"):
        assert 0 <= dev[model]["t2i"]["r1"] <= dev[model]["t2i"]["r10"] <= 100
    scoring = finished.manifest.scoring
    assert scoring.dual.scale not in (0.0, 1.0)
    assert scoring.text_to_image.scale not in (0.0, 1.0)
    assert scoring.image_to_text.scale not in (0.0, 1.0)
    assert not list(finished.artifact.parent.glob(".*.partial"))


def test_the_manifest_tells_how_it_was_trained_and_nothing_of_this_machine(finished: Finished) -> None:
    training = finished.manifest.training
    assert training["dual"]["text"] == finished.dual.text
    assert training["cross"]["epochs"] == 1
    written = (finished.artifact / "manifest.json").read_text()
    assert str(finished.dual.data) not in written
    assert str(finished.artifact.parent) not in written


@pytest.mark.parametrize("model_type", ["dual", "cross"])
def test_the_artifact_is_evaluated_on_test(finished: Finished, model_type: Any) -> None:
    engine = open_engine(finished.artifact, engine="onnx", device="cpu", threads=1)
    report = evaluate.evaluate(engine, layouts.load(finished.dual.data, "test"), model_type, QUIET, depth=4)
    assert (report["images"], report["captions"], report["model_type"]) == (6, 12, model_type)
    assert 0 <= report["expected_calibration_error"] <= 1
    assert report["t2i"]["r10"] == 100  # of six photos


def test_the_served_vectors_are_those_of_the_checkpoint(finished: Finished) -> None:
    engine = open_engine(finished.artifact, engine="onnx", device="cpu", threads=1)
    model = Checkpoint.load(finished.cross.out).model
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    with torch.inference_mode():
        expected = model.encode_image(torch.from_numpy(pixels))[0].numpy()
    images = engine.embed_images(pixels)
    assert ((images.embedding * expected).sum(axis=1) > 0.999).all()
    texts = engine.embed_texts(["a red ball on green", "the car is blue", "tree"])
    torch_engine = open_engine(finished.artifact, engine="torch", device="cpu")
    logits, reference = (one.rerank(texts.tokens, images.tokens) for one in (engine, torch_engine))
    np.testing.assert_allclose(logits, reference, atol=1e-3)


def test_a_finished_run_is_not_trained_again(finished: Finished) -> None:
    log = _log(finished.dual.out)
    assert dual.train(finished.dual, QUIET) == finished.metrics["dual"]
    assert cross.train(finished.cross, QUIET) == finished.metrics["cross"]
    assert _log(finished.dual.out) == log


def test_another_runs_folder_is_not_continued(finished: Finished) -> None:
    with pytest.raises(ResumeError, match=r"another run \(different: lr\)"):
        dual.train(replace(finished.dual, lr=0.5), QUIET)


def test_the_rerankers_run_goes_into_a_folder_of_its_own(finished: Finished) -> None:
    with pytest.raises(CheckpointError, match="--out must be another folder than --dual"):
        cross.train(replace(finished.cross, out=finished.dual.out), QUIET)


def test_an_artifact_is_not_overwritten(finished: Finished) -> None:
    with pytest.raises(ArtifactError, match="already exists"):
        publish.export_run(
            finished.cross.out, finished.artifact, finished.dual.data, name="x", version="1", depth=4, console=QUIET
        )


@pytest.mark.parametrize("damage", ["nothing there", "record", "weights", "tokenizer"])
def test_a_folder_without_a_finished_run_is_refused(finished: Finished, damage: str, tmp_path: Path) -> None:
    for name in ("checkpoint.json", "model.safetensors", "tokenizer.json"):
        data = (finished.dual.out / name).read_bytes()
        if damage != "nothing there":
            (tmp_path / name).write_bytes(data[:500] if damage in name or damage == _KIND[name] else data)
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        cross.train(replace(finished.cross, dual=tmp_path, out=tmp_path / "out"), QUIET)


_KIND = {"checkpoint.json": "record", "model.safetensors": "weights", "tokenizer.json": "tokenizer"}


def test_a_batch_of_one_is_refused(drawn_photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a batch of 1 photos is too small for 1 processes"):
        dual.train(_options(drawn_photos, tmp_path, text="gru", batch_size=1), QUIET)


def test_a_backbone_that_is_no_chain_is_trained_whole_or_not_at_all(drawn_photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="VisionTransformer is not a chain of blocks"):
        dual.train(_options(drawn_photos, tmp_path, text="gru", image_backbone="test_vit", train_blocks=1), QUIET)


def test_two_processes_train_together_under_torchrun(drawn_photos: Path, tmp_path: Path) -> None:
    """An odd batch is shared evenly; one checkpoint is written, by one of them."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    options = {"data": drawn_photos, "out": tmp_path / "run", "epochs": 1, "batch_size": 9, "device": "cpu"}
    options |= {"text": "gru", "image-backbone": "test_efficientnet", "image-weights": "none", "image-size": 64}
    arguments = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    done = subprocess.run(
        [*torchrun, "-m", "diptych", "train", "dual", *arguments],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    checkpoint = Checkpoint.load(tmp_path / "run")
    assert checkpoint.training["dual"]["batch_size"] == 9
    assert len(_log(tmp_path / "run")) == 1
    assert done.stdout.count("written to") == 1
