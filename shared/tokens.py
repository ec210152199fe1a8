"""Compact token features: what the reranker reads of an item, small enough to store beside its vector.

Each token is ``dim`` int8 codes and one float16 scale (its largest magnitude / 127), so 49 tokens of 128 dimensions
take 6.4 KB. Batches are ragged: all items' tokens end to end, with ``lengths`` saying where each stops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from shared.wire import Array, WireError, require

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TokenFeatures:
    """The tokens of one item: ``codes`` int8 (tokens, dim), ``scales`` float16 (tokens,)."""

    codes: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.scales)

    @staticmethod
    def quantise(tokens: npt.NDArray[np.floating]) -> TokenFeatures:
        """Symmetric per-token int8. ``tokens`` is (tokens, dim).

        Raises ValueError for NaN, infinity and what float16 scales cannot hold.
        """
        # Rounded to float16 before dividing, so that codes are made with the scale they will be read with.
        with np.errstate(over="ignore"):
            scales = (np.abs(tokens).max(axis=1) / 127).astype(np.float16)
        if not np.isfinite(scales).all():
            raise ValueError("token features hold NaN, infinity or values over 8 million")
        safe = np.where(scales > 0, scales, np.float16(1)).astype(np.float32)
        codes = np.clip(np.rint(tokens / safe[:, None]), -127, 127).astype(np.int8)
        return TokenFeatures(codes, scales)

    @staticmethod
    def exact(tokens: npt.NDArray[np.floating]) -> TokenFeatures:
        """Tokens (tokens, dim) with nothing lost, to measure what :meth:`quantise` costs. Their codes are float32,
        which is neither stored nor sent."""
        return TokenFeatures(cast(Any, tokens.astype(np.float32)), np.ones(len(tokens), np.float16))

    def dequantise(self) -> Float32:
        """(tokens, dim) float32."""
        return self.codes.astype(np.float32) * self.scales.astype(np.float32)[:, None]


def pad(items: Sequence[TokenFeatures]) -> tuple[Float32, npt.NDArray[np.bool_]]:
    """Dequantise a batch to (items, longest, dim) float32 and a mask (items, longest), true where a token is."""
    longest = max(len(item) for item in items)
    dim = items[0].codes.shape[1]
    tokens = np.zeros((len(items), longest, dim), np.float32)
    mask = np.zeros((len(items), longest), np.bool_)
    for row, item in enumerate(items):
        tokens[row, : len(item)] = item.dequantise()
        mask[row, : len(item)] = True
    return tokens, mask


def to_tensors(items: Sequence[TokenFeatures], prefix: str = "") -> dict[str, Array]:
    """A ragged batch as wire tensors ``codes`` (total, dim), ``scales`` (total,), ``lengths`` (items,)."""
    dim = items[0].codes.shape[1] if items else 0
    return {
        f"{prefix}codes": np.concatenate([i.codes for i in items]) if items else np.zeros((0, dim), np.int8),
        f"{prefix}scales": np.concatenate([i.scales for i in items]) if items else np.zeros(0, np.float16),
        f"{prefix}lengths": np.array([len(i) for i in items], np.int32),
    }


def from_tensors(tensors: Mapping[str, Array], prefix: str = "", dim: int | None = None) -> list[TokenFeatures]:
    """Read what :func:`to_tensors` wrote. Raises :class:`WireError` when the parts disagree."""
    lengths = require(tensors, f"{prefix}lengths", np.int32, None)
    # A batch of nothing was written without knowing a dimension.
    codes = require(tensors, f"{prefix}codes", np.int8, None, dim if len(lengths) else None)
    scales = require(tensors, f"{prefix}scales", np.float16, None)
    if len(codes) != len(scales) or (lengths < 1).any() or int(lengths.sum()) != len(codes):
        raise WireError(f"{len(codes)} codes, {len(scales)} scales and lengths summing to {lengths.sum()} do not fit")
    ends = np.cumsum(lengths)
    return [TokenFeatures(codes[e - n : e], scales[e - n : e]) for e, n in zip(ends, lengths, strict=True)]
