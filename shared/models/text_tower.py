"""The text tower: a pretrained BERT, or a transformer or GRU trained from scratch on a built vocabulary."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.models.config import TextTowerConfig


class BertEncoder(nn.Module):
    """A transformers ``BertModel`` without its pooler: ids, mask (B, T) -> (B, T, width)."""

    def __init__(self, config: TextTowerConfig) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        # "eager" attention is the one implementation that exports to ONNX with a dynamic length.
        bert = BertConfig(**config.bert, attn_implementation="eager")  # type: ignore[call-arg]
        self.bert = BertModel(bert, add_pooling_layer=False)
        self.width: int = bert.hidden_size

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return cast(Tensor, self.bert(input_ids=ids, attention_mask=mask).last_hidden_state)

    def lower(self, ids: Tensor, mask: Tensor, last: int) -> Tensor:
        """What goes into the ``last`` layers, of which there must be fewer than there are in all: ids, mask (B, T) ->
        (B, T, width)."""
        return self._through(self.bert.encoder.layer[:-last], self.bert.embeddings(input_ids=ids), mask)

    def upper(self, hidden: Tensor, mask: Tensor, last: int) -> Tensor:
        """What :meth:`lower` gave, through the ``last`` layers: (B, T, width)."""
        return self._through(self.bert.encoder.layer[-last:], hidden, mask)

    def _through(self, layers: Iterable[nn.Module], hidden: Tensor, mask: Tensor) -> Tensor:
        unseen = (mask == 0)[:, None, None] * torch.finfo(hidden.dtype).min
        for layer in layers:
            hidden = layer(hidden, unseen)
        return hidden


class TransformerEncoder(nn.Module):
    """A pre-norm transformer over learned word and position embeddings."""

    def __init__(self, config: TextTowerConfig) -> None:
        super().__init__()
        self.width = config.width
        self.words = nn.Embedding(config.vocab_size, config.width, padding_idx=0)
        self.position = nn.Parameter(torch.randn(config.max_length, config.width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            config.width,
            config.heads,
            4 * config.width,
            config.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(
            layer, config.layers, nn.LayerNorm(config.width), enable_nested_tensor=False
        )

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = self.words(ids) + self.position[: ids.shape[1]]
        return cast(Tensor, self.layers(hidden, src_key_padding_mask=mask == 0))


class GRUEncoder(nn.Module):
    """A GRU read left to right, so that padding on the right cannot change a word's state."""

    def __init__(self, config: TextTowerConfig) -> None:
        super().__init__()
        self.width = config.width
        self.words = nn.Embedding(config.vocab_size, config.width, padding_idx=0)
        self.gru = nn.GRU(config.width, config.width, batch_first=True)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return cast(Tensor, self.gru(self.words(ids))[0] * mask.unsqueeze(-1))


_ENCODERS: dict[str, type[BertEncoder] | type[TransformerEncoder] | type[GRUEncoder]] = {
    "bert": BertEncoder,
    "transformer": TransformerEncoder,
    "gru": GRUEncoder,
}


class TextTower(nn.Module):
    """Token ids -> ``hidden`` (B, T, width) -> embedding (B, D) and tokens (B, T, d)."""

    def __init__(self, config: TextTowerConfig, vector_dim: int, token_dim: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = _ENCODERS[config.kind](config)
        self.dropout = nn.Dropout(config.mean_dropout)
        self.projection = nn.Linear(self.encoder.width, vector_dim)
        self.token_projection = nn.Linear(self.encoder.width, token_dim)

    def hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        """int64 ids and mask (B, T) -> (B, T, width)."""
        return cast(Tensor, self.encoder(ids, mask))

    def mean(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(B, T, width), mask (B, T) -> the mean over real tokens (B, width)."""
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)

    def embed(self, mean: Tensor) -> Tensor:
        """(B, width) -> unit vectors (B, D)."""
        return F.normalize(self.projection(self.dropout(mean)), dim=-1)

    def tokens(self, hidden: Tensor) -> Tensor:
        """(B, T, width) -> (B, T, d)."""
        return cast(Tensor, self.token_projection(hidden))
