"""What can be counted in a data set: its splits, its captions and the words in them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from training.caption_kinds import answers, content_words, frequencies, kinds
from training.data import layouts
from training.data.captioned import CaptionedImages, DataError

# Questions of `caption_kinds` whose answers say what the captions are about, and for whom they speak.
_ASKED = ("words for persons", "gender said", "says a number", "says a colour", "says what is not there")


def count(root: Path, common: int = 20) -> dict[str, Any]:
    """Counts for each of the splits at hand; ``absent`` names those that are not. Raises DataError where none is."""
    splits, absent = {}, []
    for name in ("train", "dev", "test"):
        try:
            data = layouts.load(root, name)
        except DataError as error:
            absent.append((name, error))
        else:
            splits[name] = _split(data, common)
    if not splits:
        raise absent[0][1]
    return {"splits": splits, "absent": [name for name, _ in absent]}


def _split(data: CaptionedImages, common: int) -> dict[str, Any]:
    captions = [text for image in data.images for text in image.captions]
    each = [len(image.captions) for image in data.images]
    seen = frequencies(captions)
    lengths = [len(text.split()) for text in captions]
    on_photos = Counter(
        word for image in data.images for word in set().union(*(content_words(text) for text in image.captions))
    )
    return {
        "images": len(data),
        "captions": len(captions),
        "captions_per_image": [min(each), max(each)],
        "skipped": dict(data.skipped),
        "sizes": _sizes(data),
        "median_words": float(np.median(lengths)),
        "repeated_captions": len(captions) - len(set(captions)),
        "content_words": len(seen),
        "content_words_said_once": sum(times == 1 for times in seen.values()),
        "commonest": [
            {"word": word, "share_of_images": round(times / len(data), 4)}
            for word, times in sorted(on_photos.items(), key=lambda entry: (-entry[1], entry[0]))[:common]
        ],
        "kinds": _shares(captions),
    }


def _sizes(data: CaptionedImages) -> list[dict[str, Any]]:
    """The commonest three sizes in pixels, as the files say."""
    sizes: Counter[tuple[int, int]] = Counter()
    for image in data.images:
        with Image.open(image.path) as opened:
            sizes[opened.size] += 1
    return [{"width": w, "height": h, "images": times} for (w, h), times in sizes.most_common(3)]


def _shares(captions: list[str]) -> dict[str, dict[str, float]]:
    rules = kinds({})
    shares = {}
    for question in _ASKED:
        told = Counter(map(rules[question], captions))
        shares[question] = {answer: round(told[answer] / len(captions), 4) for answer in answers(question)}
    return shares
