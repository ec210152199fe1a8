"""The cross-attention reranker: words look at the grid, and a matching head says whether they found what they name.

The shape is that of ALBEF's multimodal encoder (Li et al., 2021, https://arxiv.org/abs/2107.07651), on compact tokens.
It starts from late interaction (Khattab & Zaharia, 2020, https://arxiv.org/abs/2004.12832).
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.models.config import RerankerConfig


class Attention(nn.Module):
    """Multi-head attention of ``queries`` (B, Q, W) over ``context`` (B, K, W)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)

    def forward(self, queries: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """``mask`` (B, K) is true where a context token is real."""
        q = self.query(queries).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, h, Q, W/h)
        k, v = self.key_value(context).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, h, K, W/h)
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5  # (B, h, Q, K)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None], -1e4)
        return cast(Tensor, self.output((scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)))


class Block(nn.Module):
    """Words attend to words, then to the picture, then think it over."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.words = Attention(width, heads)
        self.picture = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, text: Tensor, mask: Tensor, image: Tensor) -> Tensor:
        words = self.norms[0](text)
        text = text + self.dropout(self.words(words, words, mask))
        text = text + self.dropout(self.picture(self.norms[1](text), image))
        return cast(Tensor, text + self.dropout(self.mlp(self.norms[2](text))))


class LateInteraction(nn.Module):
    """How well each word's best place fits it, averaged over words by a learned importance, plus what the sentence
    alone says: a caption that fits every picture has to fit this one better."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.importance = nn.Linear(dim, 1)
        self.prior = nn.Linear(dim, 1)
        self.log_scale = nn.Parameter(torch.tensor(2.5))
        for layer in (self.importance, self.prior):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, text_tokens: Tensor, text_mask: Tensor, image_tokens: Tensor) -> Tensor:
        """Text tokens (B, T, d) with a mask (B, T), image tokens (B, N, d) -> (B,)."""
        cosines = F.normalize(text_tokens, dim=-1) @ F.normalize(image_tokens, dim=-1).transpose(1, 2)  # (B, T, N)
        share = self._share(text_tokens, text_mask)
        return self.log_scale.exp() * (cosines.amax(dim=2) * share).sum(dim=1) + self._prior(text_tokens, text_mask)

    def every(self, text_tokens: Tensor, text_mask: Tensor, image_tokens: Tensor) -> Tensor:
        """Of every text with every image: (B, T, d), mask (B, T), (I, N, d) -> (B, I)."""
        real = text_mask.bool()
        words = F.normalize(text_tokens[real], dim=-1)  # (W, d)
        places = F.normalize(image_tokens, dim=-1)
        best = (words @ places.flatten(0, 1).T).view(len(words), *places.shape[:2]).amax(dim=2)  # (W, I)
        weighted = best * self._share(text_tokens, text_mask)[real][:, None]
        owner = torch.repeat_interleave(real.sum(dim=1))
        sums = weighted.new_zeros(len(text_tokens), len(places)).index_add(0, owner, weighted)
        return self.log_scale.exp() * sums + self._prior(text_tokens, text_mask)[:, None]

    def _share(self, tokens: Tensor, mask: Tensor) -> Tensor:
        importance = self.importance(tokens).squeeze(-1)
        return cast(Tensor, importance.masked_fill(~mask.bool(), -1e4).softmax(dim=1))

    def _prior(self, tokens: Tensor, mask: Tensor) -> Tensor:
        weights = mask.unsqueeze(-1).to(tokens.dtype)
        mean = (tokens * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
        return cast(Tensor, self.prior(mean).squeeze(-1))


class Reranker(nn.Module):
    """Matching logits for pairs: text tokens (B, T, d) with a mask (B, T), image tokens (B, N, d) -> (B,)."""

    def __init__(self, config: RerankerConfig) -> None:
        super().__init__()
        self.config = config
        self.late = LateInteraction(config.token_dim)
        self.text_input = nn.Sequential(nn.LayerNorm(config.token_dim), nn.Linear(config.token_dim, config.width))
        self.image_input = nn.Sequential(
            nn.LayerNorm(config.token_dim), nn.Linear(config.token_dim, config.width), nn.LayerNorm(config.width)
        )
        self.blocks = nn.ModuleList(Block(config.width, config.heads, config.dropout) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.match = nn.Linear(2 * config.width, 1)
        self._look_for_what_is_alike()

    @torch.no_grad()
    def _look_for_what_is_alike(self) -> None:
        """Start where words attend to places with similar tokens and the head leaves the late interaction as it is.

        From a random start, telling true pairs from hard negatives stays at chance for thousands of steps.
        """
        inputs = [
            module.weight
            for part in (self.text_input, self.image_input)
            for module in part.children()
            if isinstance(module, nn.Linear)
        ]
        inputs[1].copy_(inputs[0])
        for block in self.blocks:
            assert isinstance(block, Block)
            block.picture.query.weight.copy_(block.picture.key_value.weight[: self.config.width])
        nn.init.zeros_(self.match.weight)
        nn.init.zeros_(self.match.bias)

    def forward(self, text_tokens: Tensor, text_mask: Tensor, image_tokens: Tensor) -> Tensor:
        text = self.text_input(text_tokens)
        image = self.image_input(image_tokens)
        for block in self.blocks:
            text = block(text, text_mask, image)
        text = self.norm(text)
        weights = text_mask.unsqueeze(-1).to(text.dtype)
        mean = (text * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
        # The first token sums the sentence up; the mean keeps a single word that found nothing from being outvoted.
        found = self.match(torch.cat([text[:, 0], mean], dim=-1)).squeeze(-1)
        return cast(Tensor, found + self.late(text_tokens, text_mask, image_tokens))
