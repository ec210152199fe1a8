"""A small image tower taught by a finished model: through the command, into an artifact, and as it is served."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor
from typer.testing import CliRunner

from diptych.cli import app
from shared.artifacts import ModelManifest, read_manifest, verify_files
from shared.engines import images, open_engine
from shared.models import Diptych, DiptychConfig, ImageTowerConfig, TextTowerConfig, Towers, TowersConfig, load
from shared.models.hubness import EXTRA
from tests.support.artifacts import WORDS
from tests.support.clip import write_clip
from training import distil, pretrained_clip
from training.checkpoint import Checkpoint, CheckpointError
from training.data import layouts, vocabulary
from training.distil import DistilOptions
from training.trainer import ResumeError

QUIET = Console(quiet=True)


def _options(data: Path, teacher: Path, out: Path) -> DistilOptions:
    return DistilOptions(
        data=data,
        teacher=teacher,
        out=out,
        epochs=2,
        batch_size=8,
        device="cpu",
        image_backbone="test_resnet",
        image_weights="none",
        train_blocks=1,
        warmup=2,
    )


@pytest.fixture(scope="module")
def distilled(tiny_model: Path, drawn_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> DistilOptions:
    options = _options(drawn_photos, tiny_model, tmp_path_factory.mktemp("distil") / "run")
    given = {"--data": drawn_photos, "--teacher": tiny_model, "--out": options.out, "--device": "cpu"}
    given |= {"--image-backbone": options.image_backbone, "--image-weights": "none", "--train-blocks": 1}
    given |= {"--epochs": options.epochs, "--batch-size": options.batch_size, "--warmup": options.warmup}
    _command("train", "distil", *(part for pair in given.items() for part in pair))
    return options


def _command(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result.stderr if code else result.stdout


def _train_pixels(data: Path, model: Path) -> np.ndarray:
    manifest = read_manifest(model)
    assert isinstance(manifest, ModelManifest)
    files = [image.path.read_bytes() for image in layouts.load(data, "train").images]
    return np.stack([images.pixels(file, manifest.preprocessing) for file in files])


@torch.inference_mode()
def _says(model: Diptych, pixels: np.ndarray) -> tuple[Tensor, Tensor]:
    """Directions of the vectors, hubness aside, and of the tokens."""
    vectors, tokens = model.encode_image(torch.from_numpy(pixels))
    return F.normalize(vectors[:, :-EXTRA], dim=-1), F.normalize(tokens, dim=-1)


def test_the_student_says_of_photos_what_the_teacher_says(distilled: DistilOptions, tiny_model: Path) -> None:
    """It does not before, and neither do its tokens, of which what all have in common counts for nothing."""
    student, teacher = Checkpoint.load(distilled.out).model, load(tiny_model)
    untaught = Diptych.build(student.config).eval()
    pixels = _train_pixels(distilled.data, tiny_model)
    vectors, tokens = zip(*(_says(model, pixels) for model in (teacher, untaught, student)), strict=True)
    before, after = (float(F.cosine_similarity(one, vectors[0], dim=-1).mean()) for one in vectors[1:])
    assert before < 0.5 < 0.9 < after
    own = [one - one.mean(dim=0) for one in tokens]
    before, after = (float(F.cosine_similarity(one, own[0], dim=-1).mean()) for one in own[1:])
    assert before < 0.3 < 0.5 < after


def test_it_judges_hubness_by_what_it_says_itself(distilled: DistilOptions) -> None:
    towers = Checkpoint.load(distilled.out).model.towers
    assert isinstance(towers, Towers)
    assert towers.text_hubness is not None
    with torch.inference_mode():
        vectors = _says(Diptych(towers), _train_pixels(distilled.data, distilled.teacher))[0]
    nearest = (towers.text_hubness.bank @ vectors.T).amax(dim=1)
    torch.testing.assert_close(nearest, torch.ones_like(nearest), atol=1e-3, rtol=0)


def test_it_is_exported_like_any_other_and_served_with_the_teachers_words_and_reranker(
    distilled: DistilOptions, tiny_model: Path, tmp_path: Path
) -> None:
    artifact = tmp_path / "artifact"
    _command("export", distilled.out, "--data", distilled.data, "--out", artifact, "--name", "small", "--depth", 4)
    manifest = read_manifest(artifact)
    assert isinstance(manifest, ModelManifest)
    verify_files(artifact, manifest)
    assert manifest.training["distil"]["image_backbone"] == "test_resnet"
    image = DiptychConfig.model_validate(manifest.config).towers.image
    assert isinstance(image, ImageTowerConfig)
    assert (image.backbone, image.looks, image.size) == ("test_resnet", 1, 96)
    assert str(tiny_model.parent) not in (artifact / "manifest.json").read_text()

    student, teacher = (
        open_engine(folder, engine="onnx", device="cpu", threads=1) for folder in (artifact, tiny_model)
    )
    texts = ["a red ball on green", "the car is blue", "tree"]
    mine, its = student.embed_texts(texts), teacher.embed_texts(texts)
    np.testing.assert_allclose(mine.embedding[:, :-EXTRA], its.embedding[:, :-EXTRA], atol=1e-6)
    for one, other in zip(mine.tokens, its.tokens, strict=True):
        np.testing.assert_allclose(one.dequantise(), other.dequantise(), atol=1e-5)
    seen = student.embed_images(_train_pixels(distilled.data, tiny_model)[: len(texts)]).tokens
    np.testing.assert_allclose(student.rerank(mine.tokens, seen), teacher.rerank(its.tokens, seen), atol=1e-4)


def test_a_finished_run_is_not_trained_again_and_another_not_continued(
    distilled: DistilOptions, tmp_path: Path
) -> None:
    log = (distilled.out / "log.jsonl").read_text()
    metrics = distil.train(distilled, QUIET)
    assert metrics == pytest.approx(Checkpoint.load(distilled.out).metrics["distil"])
    assert (distilled.out / "log.jsonl").read_text() == log
    assert len(log.splitlines()) == distilled.epochs
    assert "t2i_r1" in json.loads(log.splitlines()[0])
    with pytest.raises(ResumeError, match=r"another run \(different: lr\)"):
        distil.train(replace(distilled, lr=0.5), QUIET)
    newer = Checkpoint.published(distilled.teacher)
    with torch.no_grad():
        newer.model.towers.log_scale.add_(0.1)
    newer.save(tmp_path)
    with pytest.raises(ResumeError, match=r"another run \(different: teacher\)"):
        distil.train(replace(distilled, teacher=tmp_path), QUIET)


def test_a_run_of_two_towers_teaches_too(drawn_photos: Path, tmp_path: Path) -> None:
    """Of other dimensions, with more vectors to judge hubness by than there are photos, without a reranker; the
    student's backbone stays as it is, its grid is another."""
    torch.manual_seed(1)
    words = vocabulary.build(WORDS, min_count=1)
    image = ImageTowerConfig(backbone="test_efficientnet", size=64, looks=1, dropout=0.0)
    text = TextTowerConfig(kind="gru", vocab_size=len(words), width=16, max_length=16)
    config = TowersConfig(embedding_dim=24, token_dim=8, bank=100, image=image, text=text)
    (tmp_path / "teacher").mkdir()
    Checkpoint(Diptych(Towers(config)), vocabulary.tokenizer(words), words).save(tmp_path / "teacher")
    options = _options(drawn_photos, tmp_path / "teacher", tmp_path / "student")
    distil.train(replace(options, train_blocks=0, looks=2, epochs=1), QUIET)
    student = Checkpoint.load(options.out)
    assert student.model.reranker is None
    assert student.words == words
    towers = student.model.towers
    assert isinstance(towers, Towers)
    assert (towers.config.embedding_dim, towers.config.token_dim, towers.config.image.looks) == (24, 8, 2)


@pytest.mark.parametrize("folder", ["nothing", "a damaged artifact", "the teacher itself"])
def test_a_folder_without_a_teacher_is_refused(
    folder: str, tiny_model: Path, drawn_photos: Path, tmp_path: Path
) -> None:
    teacher = tmp_path / folder
    if folder != "nothing":
        shutil.copytree(tiny_model, teacher)
    if folder == "a damaged artifact":
        (teacher / "towers.safetensors").write_bytes(b"half")
    out = teacher if folder == "the teacher itself" else tmp_path / "out"
    told = _command("train", "distil", "--data", drawn_photos, "--teacher", teacher, "--out", out, code=1)
    expected = {
        "nothing": "does not hold a finished training run",
        "a damaged artifact": "towers.safetensors cannot be",
    }
    assert expected.get(folder, "--out must be another folder than --teacher") in told
    assert told.startswith("error: ")


def test_a_clip_class_model_is_refused(drawn_photos: Path, tmp_path: Path) -> None:
    towers, tokenizer = pretrained_clip.load(write_clip(tmp_path / "clip"), None, token_dim=1, grid=1)
    Checkpoint(Diptych(towers), tokenizer).save(tmp_path)
    with pytest.raises(CheckpointError, match="holds a CLIP-class model"):
        distil.train(_options(drawn_photos, tmp_path, tmp_path / "out"), QUIET)


def test_an_index_teaches_nothing(tmp_path: Path) -> None:
    manifest = {
        "kind": "index",
        "name": "photos",
        "version": "1",
        "fingerprint": "",
        "embedding_dim": 8,
        "token_dim": 4,
    }
    manifest |= {"model": "tiny/1", "photo_root": "/", "collections": {}, "contents": ""}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="holds an index; give the folder of a model"):
        Checkpoint.published(tmp_path)
