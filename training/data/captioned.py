"""What every data set becomes: photos on disk, each with its captions, and a count of what was left out."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


class DataError(Exception):
    """A data set cannot be used as it lies there. The message says what was wrong and what to do."""


class Skipped(StrEnum):
    """Why an entry of a data set was left out."""

    MALFORMED = "malformed line"
    EMPTY = "empty caption"
    REPEATED = "photo listed twice"
    UNSAFE = "name that leads out of the photo folder"
    NOT_A_PHOTO = "name that is not a photo's"
    NO_FILE = "photo without a file"
    NO_CAPTION = "photo without a caption"


@dataclass(frozen=True)
class CaptionedImage:
    """One photo: where it lies, its name within the data set, and at least one caption, in the data set's order."""

    path: Path
    name: str
    captions: tuple[str, ...]


@dataclass(frozen=True)
class CaptionedImages:
    """Photos in a deterministic order. `skipped` counts the entries that were left out, by reason (`Skipped`)."""

    images: tuple[CaptionedImage, ...]
    skipped: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.images)

    def describe(self) -> str:
        """One line for a log: how many images and captions, and what was skipped and why."""
        line = f"{len(self):,} images, {sum(len(image.captions) for image in self.images):,} captions"
        if self.skipped:
            line += "; skipped: " + ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.skipped.items()))
        return line


def name_problem(name: str) -> Skipped | None:
    """Why a photo's name is refused before any file is looked for; None for a name that is fine."""
    if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
        return Skipped.UNSAFE
    if PurePosixPath(name).suffix.lower() not in PHOTO_SUFFIXES:
        return Skipped.NOT_A_PHOTO
    return None


def collect(
    names: Iterable[str], captions: Mapping[str, tuple[str, ...]], photos: Path, skipped: Counter[str]
) -> CaptionedImages:
    """Join names, captions and files in the order of `names`; what does not join is counted on top of `skipped`.

    `photos` is the folder that names are relative to. Raises DataError if nothing is left.
    """
    skipped = Counter(skipped)
    images: dict[str, CaptionedImage] = {}
    for name in names:
        reason = name_problem(name)
        if name in images:
            reason = Skipped.REPEATED
        elif reason is None and not captions.get(name):
            reason = Skipped.NO_CAPTION
        elif reason is None and not _is_file(photos / name):
            reason = Skipped.NO_FILE
        if reason is None:
            images[name] = CaptionedImage(photos / name, name, captions[name])
        else:
            skipped[reason] += 1
    data = CaptionedImages(tuple(images.values()), dict(skipped))
    if not images:
        raise DataError(f"no captioned photo in {photos} ({data.describe()}): check the folder and the file names")
    return data


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # for instance a name longer than the file system allows
        return False
