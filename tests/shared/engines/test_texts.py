"""From words to ids, with a real tokenizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shared.artifacts import ArtifactError, Tokenization
from shared.engines.texts import TextError, TextTokenizer, check


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> TextTokenizer:
    return TextTokenizer(tiny_model, Tokenization(max_length=16))


def test_a_batch_is_padded_to_its_longest(tokenizer: TextTokenizer) -> None:
    ids, mask = tokenizer.encode(["a dog runs on the beach", "a cat"])
    assert ids.shape == mask.shape
    assert ids.dtype == mask.dtype == np.int64
    assert mask[0].all()
    assert 0 < mask[1].sum() < mask.shape[1]
    assert (ids[1][mask[1] == 0] == 0).all()
    alone, _ = tokenizer.encode(["a cat"])
    assert np.array_equal(ids[1][mask[1] == 1], alone[0])


def test_a_long_text_is_cut_to_the_model_s_length(tokenizer: TextTokenizer) -> None:
    ids, mask = tokenizer.encode(["dog " * 2500])
    assert ids.shape == (1, 16)
    assert mask.all()


@pytest.mark.parametrize("text", ["?", "狗在海滩上奔跑", "🐕", "naïve café", "a\0b", "A DOG", "x" * 10_000])
def test_any_text_of_whatever_script_has_ids(tokenizer: TextTokenizer, text: str) -> None:
    ids, mask = tokenizer.encode([text])
    assert 1 <= mask.sum() <= ids.shape[1] <= 16


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        (" \t\r\n\u3000", "empty"),
        ("x" * 10_001, "10,001 characters, over the limit of 10,000"),
        ("dog \ud800", "character 5"),
    ],
)
def test_what_is_no_text_is_refused(tokenizer: TextTokenizer, text: str, says: str) -> None:
    with pytest.raises(TextError, match=says):
        tokenizer.encode(["a dog", text])


def test_the_limit_of_characters_can_be_lowered() -> None:
    check("x" * 10, max_chars=10)
    with pytest.raises(TextError, match="11 characters, over the limit of 10"):
        check("x" * 11, max_chars=10)


def test_a_file_that_is_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"tokenizer\.json is not a tokenizer"):
        TextTokenizer(tmp_path, Tokenization(max_length=16))
