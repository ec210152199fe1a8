"""Captions as token ids, and the two things that training asks of them: which photo, and whether they name a side."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from training.data.captioned import CaptionedImages

_SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Captions:
    """All captions of a data set, in order.

    ``ids`` and ``mask`` int64 (captions, T); ``image`` int64 (captions,), the row of the photo each belongs to;
    ``first`` (photos + 1,), so that photo i has the captions ``first[i]`` to ``first[i + 1]``; ``sided`` (captions,),
    true where mirroring the photo would make the caption untrue.
    """

    texts: tuple[str, ...]
    ids: npt.NDArray[np.int64]
    mask: npt.NDArray[np.int64]
    image: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    sided: npt.NDArray[np.bool_]

    @staticmethod
    def of(data: CaptionedImages, tokenizer: Tokenizer, max_length: int) -> Captions:
        texts = [text for image in data.images for text in image.captions]
        counts = [len(image.captions) for image in data.images]
        tokenizer.enable_truncation(max_length)
        tokenizer.enable_padding()
        encoded = tokenizer.encode_batch(texts)
        return Captions(
            tuple(texts),
            np.array([e.ids for e in encoded], np.int64),
            np.array([e.attention_mask for e in encoded], np.int64),
            np.repeat(np.arange(len(counts)), counts),
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            np.array([bool(_SIDES.search(text)) for text in texts]),
        )

    def draw(self, images: npt.NDArray[Any], count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """``count`` captions for each photo, (photos, count), without repeats where the photo has that many."""
        rows = []
        for image in images:
            own = np.arange(self.first[image], self.first[image + 1])
            rows.append(rng.choice(own, count, replace=len(own) < count))
        return np.stack(rows)

    def batch(self, captions: npt.NDArray[Any], device: torch.device) -> tuple[Tensor, Tensor]:
        """Ids and mask of these captions, cut to the longest of them."""
        longest = int(self.mask[captions].sum(axis=1).max())
        return (
            torch.from_numpy(self.ids[captions, :longest]).to(device),
            torch.from_numpy(self.mask[captions, :longest]).to(device),
        )


def map_by_length(work: Callable[[Tensor, int], Tensor], mask: Tensor, chunk: int) -> Tensor:
    """Rows computed in chunks of like length: most captions are half as long as the longest, and padding costs as much
    as words. ``work(rows, longest)`` gets row numbers and the length to cut them to; results come in the mask's order.
    """
    lengths = mask.sum(dim=1)
    order = lengths.argsort()
    parts = [work(rows, int(lengths[rows[-1]])) for rows in torch.split(order, chunk)]
    return torch.cat(parts)[order.argsort()]
