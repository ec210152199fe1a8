"""Kinds of captions, told by rules that anyone can read: to see which of them a model fails on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from training.data.vocabulary import words as tokens


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_NUMBERS = _set("two three four five six seven eight nine ten eleven twelve dozen several many both pair")
_COLOURS = _set(
    "red orange yellow green blue purple violet pink brown black white gray grey tan beige golden silver blond blonde"
    " colorful dark light"
)
_SIDES = _set("left right")
_PLACES = _set(
    "behind front beside next between above below under underneath beneath over near against around across along"
    " through top bottom inside outside"
)
_NEGATION = _set("no not none nobody nothing without never neither nor")
_PRONOUNS = _set("he him his she her")
_MALE = _set("man men boy boys guy guys male males gentleman he him his")
_FEMALE = _set("woman women girl girls lady ladies female females she her")
_PERSONS = (_MALE | _FEMALE) - _PRONOUNS | _set(
    "person persons people child children kid kids baby babies toddler toddlers adult adults teenager teenagers teen"
    " couple crowd group family player players someone friends team"
)
# Words that say nothing of what is to be seen.
_FUNCTION = _set(
    "a an the this that these those and or but as at by for from in into of off on onto out to up down with while"
    " is are was were be been being has have having do does did it its their they them there who which what some"
    " other another each one"
) | _NEGATION.union(_PLACES, _PRONOUNS)


def content_words(caption: str) -> set[str]:
    """The words that say what is to be seen."""
    return {word for word in tokens(caption) if word.isalpha() and word not in _FUNCTION}


def frequencies(captions: Iterable[str]) -> Counter[str]:
    """How often each content word is said in the training data, once a caption."""
    return Counter(word for caption in captions for word in content_words(caption))


def kinds(seen: Mapping[str, int]) -> dict[str, Callable[[str], str]]:
    """Questions about a caption, each with the rule that answers it. ``seen``: :func:`frequencies` of training."""

    def says(vocabulary: frozenset[str]) -> Callable[[str], str]:
        return lambda caption: "yes" if vocabulary & set(_words(caption)) else "no"

    return {
        "words": _length,
        "says a number": lambda caption: (
            "yes" if any(word in _NUMBERS or word.isdigit() for word in _words(caption)) else "no"
        ),
        "says a colour": says(_COLOURS),
        "says left or right": says(_SIDES),
        "says where things are to each other": says(_PLACES),
        "says on": says(_set("on")),
        "says what is not there": says(_NEGATION),
        "words for persons": lambda caption: _at_most(sum(word in _PERSONS for word in _words(caption)), "2 and more"),
        "gender said": _gender,
        "training captions with its rarest word": lambda caption: _rarity(
            min((seen.get(word, 0) for word in content_words(caption)), default=0)
        ),
    }


def answers(question: str) -> Sequence[str]:
    """All answers to a question of :func:`kinds`, in the order to show them in."""
    return _ANSWERS.get(question, ("yes", "no"))


_ANSWERS = {
    "words": ("up to 8", "9 to 12", "13 and more"),
    "words for persons": ("0", "1", "2 and more"),
    "gender said": ("male only", "female only", "both", "none"),
    "training captions with its rarest word": ("0", "1 to 9", "10 to 99", "100 and more"),
}


def _words(caption: str) -> list[str]:
    return [word for word in tokens(caption) if word.isalnum()]


def _length(caption: str) -> str:
    length = len(_words(caption))
    return "up to 8" if length <= 8 else "9 to 12" if length <= 12 else "13 and more"


def _at_most(count: int, more: str) -> str:
    return str(count) if count < 2 else more


def _gender(caption: str) -> str:
    words = set(_words(caption))
    male, female = bool(words & _MALE), bool(words & _FEMALE)
    return "both" if male and female else "male only" if male else "female only" if female else "none"


def _rarity(count: int) -> str:
    return "0" if count == 0 else "1 to 9" if count < 10 else "10 to 99" if count < 100 else "100 and more"
