from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from training.data import vocabulary
from training.data.captioned import DataError

CAPTIONS = ["A dog runs .", "a DOG's ball", "Two dogs run, a cat sits .", "ﬁne café", "ﬁne café"]


def test_specials_then_words_by_falling_count() -> None:
    words = vocabulary.build(CAPTIONS)
    assert list(words.items())[:4] == [("[PAD]", 0), ("[UNK]", 1), ("[CLS]", 2), ("[SEP]", 3)]
    assert list(words)[4:] == ["a", ".", "café", "dog", "fine"]
    assert words == vocabulary.build(reversed(CAPTIONS))


def test_limits() -> None:
    assert len(vocabulary.build(CAPTIONS, min_count=1)) > len(vocabulary.build(CAPTIONS))
    assert list(vocabulary.build(CAPTIONS, max_size=6))[4:] == ["a", "."]
    with pytest.raises(ValueError, match="max_size must be above 4"):
        vocabulary.build(CAPTIONS, max_size=4)
    with pytest.raises(ValueError, match="min_count must be at least 1"):
        vocabulary.build(CAPTIONS, min_count=0)


def test_round_trip(tmp_path: Path) -> None:
    words = vocabulary.build(CAPTIONS)
    vocabulary.save(words, tmp_path / "vocab.json")
    assert vocabulary.load(tmp_path / "vocab.json") == words


@pytest.mark.parametrize(
    "content",
    ["", '{"[PAD]": 0, "[UNK]"', "[]", "{}", '{"a": 0}', '{"[PAD]":0,"[UNK]":1,"[CLS]":2,"[SEP]":3,"a":5}', "\x00"],
)
def test_a_damaged_vocabulary_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "vocab.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"vocab\.json"):
        vocabulary.load(path)
    with pytest.raises(DataError, match="cannot read the vocabulary"):
        vocabulary.load(tmp_path / "missing.json")


def test_the_saved_tokenizer_serves(tmp_path: Path) -> None:
    words = vocabulary.build(CAPTIONS)
    vocabulary.tokenizer(words).save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.encode("The DOG, a ﬁne café.").tokens == [
        "[CLS]", "[UNK]", "dog", "[UNK]", "a", "fine", "café", ".", "[SEP]",
    ]  # fmt: skip
    assert tokenizer.encode("").ids == [2, 3]


def test_special_names_in_a_caption_are_plain_text() -> None:
    words = vocabulary.build(["[SEP] [PAD]"] * 2)
    ids = vocabulary.tokenizer(words).encode("dog [SEP] [PAD] dog").ids
    assert ids[0] == words["[CLS]"]
    assert ids[-1] == words["[SEP]"]
    assert not {words["[PAD]"], words["[SEP]"]} & set(ids[1:-1])


def test_each_chinese_character_is_a_word() -> None:
    assert vocabulary.words("一只狗 runs") == ["一", "只", "狗", "runs"]


@given(st.lists(st.text(), max_size=5))
def test_training_and_serving_see_the_same_words(captions: list[str]) -> None:
    words = vocabulary.build(captions, min_count=1)
    tokenizer = vocabulary.tokenizer(words)
    for caption in captions:
        assert tokenizer.encode(caption).tokens[1:-1] == vocabulary.words(caption)
