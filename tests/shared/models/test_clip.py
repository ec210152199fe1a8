"""CLIP-class towers: what their configuration alone rebuilds, and what they promise to an engine and a reranker."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from shared.artifacts import ArtifactError
from shared.models import ClipConfig, ClipImageConfig, ClipTextConfig, ClipTowers, Diptych, DiptychConfig
from tests.support.clip import TEXT, VIT


def _config(bank: int = 0, **text: Any) -> ClipConfig:
    return ClipConfig(
        network={"embed_dim": 32, "vision_cfg": VIT, "text_cfg": TEXT | text},
        embedding_dim=36 if bank else 32,
        bank=bank,
        token_dim=8,
        image=ClipImageConfig(size=64, mean=(0.5,) * 3, std=(0.5,) * 3, grid=2),
        text=ClipTextConfig(max_length=24),
    )


def _towers(bank: int = 0, **text: Any) -> ClipTowers:
    torch.manual_seed(0)
    return ClipTowers(_config(bank, **text)).eval()


def _ids(length: int, seed: int = 0) -> Tensor:
    words = torch.randint(300, 40_000, (1, length), generator=torch.Generator().manual_seed(seed))
    words[:, 0], words[:, -1] = 49406, 49407
    return words


def test_the_configuration_builds_the_model_again() -> None:
    model = Diptych(_towers())
    config = DiptychConfig.model_validate_json(json.dumps(model.config.model_dump(mode="json")))
    assert config == model.config
    again = Diptych.build(config)
    again.load_state_dict(model.state_dict())
    assert isinstance(again.towers, ClipTowers)


@pytest.mark.parametrize("bank", [0, 5])
@torch.inference_mode()
def test_shapes_are_as_promised(bank: int) -> None:
    towers = _towers(bank)
    vectors, tokens = towers.encode_image(torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8))
    assert (vectors.shape, tokens.shape) == ((3, towers.config.embedding_dim), (3, 4, 8))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    ids = torch.cat([_ids(7, seed) for seed in range(2)])
    vectors, tokens = towers.encode_text(ids, torch.ones_like(ids))
    assert (vectors.shape, tokens.shape) == ((2, towers.config.embedding_dim), (2, 7, 8))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))


@pytest.mark.parametrize("ahead", [False, True], ids=["causal", "not causal"])
@pytest.mark.parametrize("length", [3, 11, 24])
@torch.inference_mode()
def test_padding_does_not_change_a_text(length: int, ahead: bool) -> None:
    towers = _towers(no_causal_mask=ahead)
    alone, own_tokens = towers.encode_text(_ids(length), torch.ones(1, length, dtype=torch.int64))
    padded = torch.zeros(2, 24, dtype=torch.int64)
    padded[0, :length], padded[1] = _ids(length), _ids(24, seed=1)
    together, tokens = towers.encode_text(padded, (padded > 0).long())
    torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tokens[:1, :length], own_tokens, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("text", "says"), [({"proj_bias": True}, "not CLIP's kind of text network"), ({"depth": 3}, "cannot build")]
)
def test_a_network_of_another_kind_is_refused(text: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        _towers(**text)


def test_without_open_clip_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ArtifactError, match=r"open_clip is not installed: .* pip install open-clip-torch"):
        _towers()
