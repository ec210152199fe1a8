"""Three kinds of text tower, one promise: padding and companions change nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from shared.models import TextTower, TextTowerConfig
from shared.models.text_tower import BertEncoder

BERT = {
    **{"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2},
    **{"vocab_size": 50, "max_position_embeddings": 32},
}
KINDS = {
    "bert": TextTowerConfig(kind="bert", bert=BERT, vocab_size=50, width=32, max_length=12),
    "transformer": TextTowerConfig(kind="transformer", vocab_size=50, width=32, layers=2, heads=2, max_length=12),
    "gru": TextTowerConfig(kind="gru", vocab_size=50, width=32, max_length=12),
}


def _tower(kind: str) -> TextTower:
    torch.manual_seed(0)
    return TextTower(KINDS[kind], vector_dim=24, token_dim=8).eval()


def _encode(tower: TextTower, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        hidden = tower.hidden(ids, mask)
        return tower.embed(tower.mean(hidden, mask)), tower.tokens(hidden)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_are_as_promised(kind: str) -> None:
    tower = _tower(kind)
    ids = torch.randint(4, 50, (3, 7))
    embedding, tokens = _encode(tower, ids, torch.ones_like(ids))
    assert tower.encoder.width == 32
    assert embedding.shape == (3, 24)
    assert tokens.shape == (3, 7, 8)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 3, 11])
def test_padding_does_not_change_a_text(kind: str, length: int) -> None:
    tower = _tower(kind)
    ids = torch.randint(4, 50, (1, length))
    alone, own_tokens = _encode(tower, ids, torch.ones_like(ids))
    padded = torch.zeros(2, 12, dtype=torch.int64)
    padded[0, :length] = ids
    padded[1] = torch.randint(4, 50, (12,))
    mask = (padded > 0).long()
    together, tokens = _encode(tower, padded, mask)
    torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tokens[:1, :length], own_tokens, atol=1e-5, rtol=1e-4)


def test_a_bert_in_two_parts_is_the_whole() -> None:
    encoder = _tower("bert").encoder
    assert isinstance(encoder, BertEncoder)
    ids = torch.randint(4, 50, (3, 7))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    with torch.inference_mode():
        whole = encoder(ids, mask)
        parts = encoder.upper(encoder.lower(ids, mask, 1), mask, 1)
    torch.testing.assert_close(parts[mask > 0], whole[mask > 0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_words_matters(kind: str) -> None:
    tower = _tower(kind)
    ids = torch.tensor([[4, 5, 6, 7], [7, 6, 5, 4]])
    embedding, _ = _encode(tower, ids, torch.ones_like(ids))
    assert (embedding[0] - embedding[1]).abs().max() > 1e-4
