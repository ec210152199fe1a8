"""The whole model: built from its configuration, and loaded from an artifact."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from shared.artifacts import ArtifactError
from shared.models import Diptych, DiptychConfig, load


@torch.inference_mode()
def test_an_artifact_is_loaded_ready_to_answer(tiny_model: Path) -> None:
    model = load(tiny_model)
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    embedding, tokens = model.encode_image(torch.zeros(2, 96, 96, 3, dtype=torch.uint8))
    assert (embedding.shape, tokens.shape) == ((2, 64), (2, 9, 16))
    ids = torch.tensor([[2, 7, 8, 3]])
    embedding, text_tokens = model.encode_text(ids, torch.ones_like(ids))
    assert (embedding.shape, text_tokens.shape) == ((1, 64), (1, 4, 16))
    assert model.reranker is not None
    assert model.reranker(text_tokens, torch.ones(1, 4, dtype=torch.bool), tokens[:1]).shape == (1,)


def test_the_configuration_builds_the_model_again(tiny_model: Path) -> None:
    model = load(tiny_model)
    written = json.dumps(model.config.model_dump(mode="json"))
    again = Diptych.build(DiptychConfig.model_validate_json(written))
    assert again.config == model.config
    again.load_state_dict(model.state_dict())


def test_weights_that_do_not_fit_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["config"]["towers"]["embedding_dim"] = 65
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="does not fit the architecture in its manifest"):
        load(copy)


@pytest.mark.parametrize("name", ["towers.safetensors", "reranker.safetensors"])
def test_weights_that_cannot_be_read_are_refused(tiny_model: Path, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    (copy / name).write_bytes((copy / name).read_bytes()[:1000])
    with pytest.raises(ArtifactError, match=f"{name} cannot be read"):
        load(copy)
    (copy / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} cannot be read"):
        load(copy)


@pytest.mark.parametrize("image", [{"backbone": "no_such_network"}, {"depth": 3}])
def test_an_architecture_of_another_time_is_refused(tiny_model: Path, tmp_path: Path, image: dict[str, object]) -> None:
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["config"]["towers"]["image"] |= image
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="its architecture is not one that this version can build"):
        load(copy)
