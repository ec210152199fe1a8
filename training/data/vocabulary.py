"""The word vocabulary of a text tower that is trained from scratch, and the tokenizer that serving uses with it."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from training.data.captioned import DataError

PAD, UNK, CLS, SEP = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
SPECIALS = (PAD, UNK, CLS, SEP)

# Lower case and NFKC; the second step also strips control characters and sets Chinese characters apart, each of which
# then counts as a word. Accents stay: they tell words apart in most languages.
_NORMALIZER = normalizers.Sequence([normalizers.NFKC(), normalizers.BertNormalizer(strip_accents=False)])
_PRE_TOKENIZER = pre_tokenizers.BertPreTokenizer()  # splits at white space and around punctuation


def words(caption: str) -> list[str]:
    """The caption's words, exactly as `tokenizer` sees them."""
    return [word for word, _ in _PRE_TOKENIZER.pre_tokenize_str(_NORMALIZER.normalize_str(caption))]


def build(captions: Iterable[str], min_count: int = 2, max_size: int = 20_000) -> dict[str, int]:
    """Words to ids: `[PAD]` 0, `[UNK]` 1, `[CLS]` 2, `[SEP]` 3, then words by falling count (ties in code-point order).

    Words seen less than `min_count` times are left out, and so are the rarest beyond `max_size` entries in all.
    The result depends on the captions' words only, not on their order.
    Raises ValueError if `min_count` is below 1 or `max_size` leaves no room for a word.
    """
    if min_count < 1:
        raise ValueError(f"min_count must be at least 1, not {min_count}")
    if max_size <= len(SPECIALS):
        raise ValueError(f"max_size must be above {len(SPECIALS)}, the special entries, not {max_size}")
    counts = Counter(word for caption in captions for word in words(caption))
    frequent = (word for word, count in counts.items() if count >= min_count)
    kept = sorted(frequent, key=lambda word: (-counts[word], word))
    return {word: index for index, word in enumerate([*SPECIALS, *kept[: max_size - len(SPECIALS)]])}


def save(vocabulary: Mapping[str, int], path: Path) -> None:
    """Write `vocab.json`: one JSON object, words to ids, in the order of ids."""
    ordered = dict(sorted(vocabulary.items(), key=lambda entry: entry[1]))
    path.write_text(json.dumps(ordered, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


def load(path: Path) -> dict[str, int]:
    """Read what `save` wrote. Raises DataError if the file is missing, damaged or not such a vocabulary."""
    try:
        vocabulary: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the vocabulary {path} ({error}): copy it again or train again") from error
    expected = {word: index for index, word in enumerate(vocabulary)} if isinstance(vocabulary, dict) else None
    if vocabulary != expected or tuple(vocabulary)[: len(SPECIALS)] != SPECIALS:
        raise DataError(f"{path} is not a vocabulary: it must map words to ids from 0, beginning with {SPECIALS}")
    return vocabulary


def tokenizer(vocabulary: Mapping[str, int]) -> Tokenizer:
    """A tokenizer that gives `[CLS] words [SEP]`; `.save(path)` writes the `tokenizer.json` of a model artifact.

    The special entries are not registered as such on purpose: a caption that spells out "[SEP]" is plain text.
    """
    result = Tokenizer(models.WordLevel(dict(vocabulary), unk_token=UNK))
    result.normalizer = _NORMALIZER
    result.pre_tokenizer = _PRE_TOKENIZER
    result.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}", special_tokens=[(CLS, vocabulary[CLS]), (SEP, vocabulary[SEP])]
    )
    return result
