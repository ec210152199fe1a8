"""Flickr8k in its official layout: a folder of photos, and the texts in `Flickr8k_text/`.

Hodosh, Young and Hockenmaier, "Framing Image Description as a Ranking Task", 2013.
"""

from pathlib import Path
from typing import Literal

from training.data import caption_files
from training.data.captioned import CaptionedImages, DataError, collect
from training.data.folders import find_file, find_photos

Split = Literal["train", "dev", "test", "all"]

CAPTION_FILE = "Flickr8k.token.txt"
SPLIT_FILES = {
    "train": "Flickr_8k.trainImages.txt",
    "dev": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}
# The whole corpus: photos, lines of the token file, photos of each split. Of the token file's 8,092 names one,
# `2258277193_586949ec62.jpg.1`, is no photo; 91 photos are in no split.
N_PHOTOS = 8_091
N_CAPTIONS = 40_460
N_SPLIT = {"train": 6_000, "dev": 1_000, "test": 1_000}


def load(root: Path, split: Split) -> CaptionedImages:
    """The photos of a split in the order of its file, or all of them in the order of the token file.

    The photos may lie in `Flicker8k_Dataset/`, `Flickr8k_Dataset/`, `Images/` or any other folder, the texts in
    `Flickr8k_text/` or `root` itself, each also one folder deeper. A split's file is needed only to load that split.
    Raises DataError if a file or the photos cannot be found.
    """
    caption_file = find_file(root, CAPTION_FILE)
    if caption_file is None:
        raise DataError(f"no {CAPTION_FILE} under {root}: give the folder that holds Flickr8k_text/ and the photos")
    table = caption_files.read(caption_file)
    names = list(table.captions) if split == "all" else read_split(root, split)
    return collect(names, table.captions, find_photos(root, table.captions), table.skipped)


def read_split(root: Path, split: str) -> list[str]:
    """The photo names that a split's file lists. Raises DataError if there is no such file."""
    split_file = find_file(root, SPLIT_FILES[split])
    if split_file is None:
        raise DataError(f"no {SPLIT_FILES[split]} under {root}: copy it there, or use a split whose file is there")
    return caption_files.read_names(split_file)
