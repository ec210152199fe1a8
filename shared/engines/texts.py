"""From texts to token ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from shared.artifacts import ArtifactError, Tokenization

MAX_CHARS = 10_000


class TextError(ValueError):
    """A text that cannot be asked with: empty, too long, or no text at all."""


class TextTokenizer:
    """An artifact's ``tokenizer.json``."""

    def __init__(self, directory: Path, tokenization: Tokenization) -> None:
        path = directory / tokenization.file
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ArtifactError(f"{path} is not a tokenizer: {error}") from error
        self._tokenizer.enable_truncation(tokenization.max_length)
        self._tokenizer.enable_padding(pad_id=tokenization.pad_id)

    def encode(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Ids and mask (B, T), T the longest of the batch after truncation. Raises :class:`TextError`."""
        for text in texts:
            check(text)
        encoded = self._tokenizer.encode_batch(list(texts))
        return (
            np.array([e.ids for e in encoded], np.int64),
            np.array([e.attention_mask for e in encoded], np.int64),
        )


def check(text: str, max_chars: int = MAX_CHARS) -> None:
    """Raises :class:`TextError` for a text without words, beyond ``max_chars`` characters, or not fit for UTF-8."""
    if not text.strip():
        raise TextError("the text is empty: say what should be in the picture")
    if len(text) > max_chars:
        raise TextError(f"the text has {len(text):,} characters, over the limit of {max_chars:,}; send less")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TextError(f"character {error.start + 1} of the text is half of a surrogate pair, no character") from error
