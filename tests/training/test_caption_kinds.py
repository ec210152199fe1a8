"""Kinds of captions: each rule on sentences of our own."""

from __future__ import annotations

import pytest

from training.caption_kinds import answers, content_words, frequencies, kinds

SEEN = frequencies(["A dog runs."] * 100 + ["A dog leaps over a puddle."] * 10 + ["A puddle."])


@pytest.mark.parametrize(
    ("question", "caption", "answer"),
    [
        ("words", "A dog runs on the wet sand .", "up to 8"),
        ("words", "A dog runs on the wet sand of a beach .", "9 to 12"),
        ("words", "A dog runs on the wet sand of a beach behind a small child .", "13 and more"),
        ("says a number", "Two dogs", "yes"),
        ("says a number", "a player with the number 12", "yes"),
        ("says a number", "One dog and someone", "no"),
        ("says a colour", "A BROWN dog", "yes"),
        ("says a colour", "A brownish dog", "no"),
        ("says left or right", "the dog on the left", "yes"),
        ("says left or right", "a bright dog", "no"),
        ("says where things are to each other", "a dog behind a child", "yes"),
        ("says where things are to each other", "a dog on sand", "no"),
        ("says on", "a dog on sand", "yes"),
        ("says on", "one dog", "no"),
        ("says what is not there", "a dog without a leash", "yes"),
        ("says what is not there", "a notable dog", "no"),
        ("words for persons", "a dog", "0"),
        ("words for persons", "a man and his dog", "1"),
        ("words for persons", "a man, a woman and a child", "2 and more"),
        ("gender said", "a boy and his dog", "male only"),
        ("gender said", "the dog follows her", "female only"),
        ("gender said", "a man and a girl", "both"),
        ("gender said", "a child", "none"),
        ("training captions with its rarest word", "a dog runs", "100 and more"),
        ("training captions with its rarest word", "a dog leaps", "10 to 99"),
        ("training captions with its rarest word", "a dog leaps over a zebra", "0"),
    ],
)
def test_a_rule_answers(question: str, caption: str, answer: str) -> None:
    assert kinds(SEEN)[question](caption) == answer
    assert answer in answers(question)


def test_a_word_counts_once_a_caption() -> None:
    assert frequencies(["A dog, a dog and a dog."])["dog"] == 1


def test_content_words_say_what_is_to_be_seen() -> None:
    assert content_words("A man 's 2 dogs are not on the left behind him .") == {"man", "s", "dogs", "left"}
