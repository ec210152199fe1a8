"""Where in a picture the reranker sees each word of a text.

Occlusion (Zeiler & Fergus, 2014, https://arxiv.org/abs/1311.2901) of stored tokens: a window of 3 x 3 places is
replaced by the picture's mean token, and what the matching logit loses by it is what was seen there. Each word is read
alone: in a sentence its token also speaks of its neighbours.

Judged by eye on ten of Flickr8k's dev photos with names of things, this map lies on the thing in nine. The cosines of
the word's with the places' tokens, all that a model without a reranker leaves, spread around it, and do so in seven.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.gateway.encoder import Encoder
from services.gateway.neighbours import Index
from services.gateway.pairing import Pair, Pairing
from services.gateway.photos import check_id
from shared import tokens
from shared.problems import Problem
from shared.schemas_v1 import ExplainAnswer, WordMap
from shared.tokens import TokenFeatures

Floats = npt.NDArray[np.float32]
MOST_WORDS = 32
_WORD = re.compile(r"\w+(?:['\u2019-]\w+)*")


@dataclass(frozen=True)
class Explaining:
    encoder: Encoder
    index: Index
    pairing: Pairing

    async def explain(self, text: str, image_id: str) -> ExplainAnswer:
        """Raises :class:`Problem`."""
        check_id(image_id)
        words = list(_WORD.finditer(text))
        if not 1 <= len(words) <= MOST_WORDS:
            raise Problem("invalid-request", f"text: it has {len(words)} words; 1 to {MOST_WORDS} can be looked for")
        return await self.pairing.run(lambda pair: self._explain(pair, text, words, image_id))

    async def _explain(self, pair: Pair, text: str, words: list[re.Match[str]], image_id: str) -> ExplainAnswer:
        (picture,) = (
            await self.index.embeddings("images", [image_id], pair.model, pair.index.ref, with_tokens=True)
        ).tokens
        side = math.isqrt(len(picture))
        if side * side != len(picture):
            raise Problem("invalid-request", f"{pair.model.ref} sees pictures as {len(picture)} places, no square grid")
        distinct = list(dict.fromkeys(word.group() for word in words))
        read = tokens.from_tensors(await self.encoder.embed_texts(distinct, pair.model), dim=pair.model.token_dim)
        seen: dict[str, Floats] = {}
        for word, one in zip(distinct, read, strict=True):  # one at a time: searches are not to wait behind a text
            if pair.model.has_reranker:
                logits = await self.encoder.rerank("text", one, [picture, *occluded(picture, side)], pair.model)
                seen[word] = np.maximum(logits[0] - logits[1:], 0)
            else:
                seen[word] = _similarities(one, picture)
        return ExplainAnswer(
            text=text,
            id=image_id,
            model_version=pair.model.ref,
            method="occlusion" if pair.model.has_reranker else "similarity",
            rows=side,
            columns=side,
            words=[
                WordMap(
                    word=word.group(),
                    start=word.start(),
                    end=word.end(),
                    peak=float(seen[word.group()].max()),
                    weights=_spread(seen[word.group()]).reshape(side, side).round(4).tolist(),
                )
                for word in words
            ],
        )


def occluded(picture: TokenFeatures, side: int) -> list[TokenFeatures]:
    """The picture once for each place, without what is there and next to it."""
    mean = TokenFeatures.quantise(picture.dequantise().mean(axis=0, keepdims=True))
    rows, columns = np.divmod(np.arange(side * side), side)
    found = []
    for row, column in zip(rows, columns, strict=True):
        hidden = (np.abs(rows - row) <= 1) & (np.abs(columns - column) <= 1)
        codes = np.where(hidden[:, None], mean.codes, picture.codes)
        found.append(TokenFeatures(codes, np.where(hidden, mean.scales, picture.scales)))
    return found


def _similarities(word: TokenFeatures, picture: TokenFeatures) -> Floats:
    """Cosines (N,) of a word, the mean over its tokens without those that mark beginning and end, with N places."""
    parts = _unit(word.dequantise())
    own = parts[1:-1] if len(parts) > 2 else parts
    return np.asarray((own @ _unit(picture.dequantise()).T).mean(axis=0), np.float32)


def _unit(vectors: Floats) -> Floats:
    lengths: Floats = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-6), np.float32)


def _spread(values: Floats) -> Floats:
    """Stretched to 0 to 1; all 0 where nothing stands out."""
    above = values - values.min()
    return np.asarray(above / np.maximum(above.max(), 1e-6), np.float32)
