"""Any supported data set, told apart by its files.

Two layouts: photos beside a token file (`name#0<TAB>caption`, as Flickr8k and Flickr30k have it), and photos beside
`captions.csv`, `captions.jsonl` or `captions.txt` (CSV with the header `image,caption`, as Kaggle has it).
"""

import hashlib
from pathlib import Path
from typing import cast

from training.data import caption_files, flickr8k
from training.data.captioned import CaptionedImages, DataError, collect
from training.data.folders import find_file, find_photos

SPLITS = ("train", "dev", "test", "all")
CAPTION_FILES = ("captions.csv", "captions.jsonl", "captions.txt", "*.token.txt", "*.token")


def load(root: Path, split: str, *, captions_file: Path | None = None) -> CaptionedImages:
    """The photos of `split` (train, dev, test or all) with their captions, in the caption file's order.

    `captions_file` names the captions where they lie elsewhere, or in another language. Which photos form a split is
    decided by the first of these that is there: the caption file's `split` column; Flickr8k's split files, or those
    of any name ending in `trainImages.txt`, `devImages.txt` and `testImages.txt` (then in their order); else a hash
    of the photo's name (see `hashed_split`). Raises DataError where there is nothing to load.
    """
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}")
    if captions_file is None:
        if find_file(root, flickr8k.CAPTION_FILE):
            return flickr8k.load(root, cast("flickr8k.Split", split))
        captions_file = find_captions(root)
    if captions_file is None:
        raise DataError(f"no captions under {root}: expected one of {', '.join(CAPTION_FILES)}")
    table = caption_files.read(captions_file)
    names = list(table.captions) if split == "all" else _split_names(root, table, split)
    return collect(names, table.captions, find_photos(root, table.captions), table.skipped)


def find_captions(root: Path) -> Path | None:
    """The caption file that `load` would read, or None where a folder holds none."""
    return next(filter(None, (find_file(root, pattern) for pattern in CAPTION_FILES)), None)


def hashed_split(name: str) -> str:
    """The split of a photo in a data set that has none: 90 % train, 5 % dev, 5 % test.

    It depends on the name alone (sha256, first 8 bytes as a fraction of 1), so it stays as photos come and go.
    """
    fraction = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    return "train" if fraction < 0.90 else "dev" if fraction < 0.95 else "test"


def _split_names(root: Path, table: caption_files.CaptionTable, split: str) -> list[str]:
    if table.splits is not None:
        return [name for name in table.captions if table.splits[name] == split]
    split_files = {part: find_file(root, f"*{part}Images.txt") for part in ("train", "dev", "test")}
    if not any(split_files.values()):
        return [name for name in table.captions if hashed_split(name) == split]
    split_file = split_files[split]
    if split_file is None:
        raise DataError(f"no *{split}Images.txt under {root}: copy it there, or use a split whose file is there")
    return caption_files.read_names(split_file)
