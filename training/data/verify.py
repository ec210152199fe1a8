"""What a local copy of Flickr8k holds, what is missing from it and what is broken."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image
from rich.console import Console
from rich.progress import track

from training.data import caption_files, flickr8k
from training.data.captioned import PHOTO_SUFFIXES, DataError
from training.data.folders import find_file, find_photos


@dataclass(frozen=True)
class Report:
    """What `verify` found.

    `n_photos` counts photo files, `n_captions` the lines of the token file. `splits`: the photos of each split that
    are there, or None where the split's file is missing. `broken`: photos that do not decode.
    """

    root: Path
    n_photos: int
    n_captions: int
    splits: Mapping[str, int | None]
    broken: tuple[Path, ...]

    @property
    def state(self) -> Literal["absent", "damaged", "partial", "complete"]:
        """`absent`: no captions or no photos of theirs. `partial`: sound, but not the whole corpus."""
        if not self.n_photos or not self.n_captions:
            return "absent"
        if self.broken:
            return "damaged"
        whole = self.n_photos >= flickr8k.N_PHOTOS and self.n_captions >= flickr8k.N_CAPTIONS
        return "complete" if whole and dict(self.splits) == flickr8k.N_SPLIT else "partial"

    def __str__(self) -> str:
        lines = [
            f"Flickr8k in {self.root}: {self.state}",
            f"  photos    {self.n_photos:>6,} of {flickr8k.N_PHOTOS:,}",
            f"  captions  {self.n_captions:>6,} of {flickr8k.N_CAPTIONS:,}",
        ]
        for split, found in self.splits.items():
            count = (
                f"no {flickr8k.SPLIT_FILES[split]}" if found is None else f"{found:>6,} of {flickr8k.N_SPLIT[split]:,}"
            )
            lines.append(f"  {split:<8}  {count}")
        if self.broken:
            names = ", ".join(path.name for path in self.broken[:5]) + (", ..." if len(self.broken) > 5 else "")
            lines.append(f"  broken    {len(self.broken):>6,}: {names}")
            lines.append(
                "  Put sound copies of the broken photos there, or delete them: photos without a file are skipped."
            )
        return "\n".join(lines)


def verify(root: Path, console: Console | None = None) -> Report:
    """Count what is there and decode every photo, with a progress bar on `console`.

    Nothing is changed, and a copy that is not whole is no error: see `Report.state`.
    """
    splits: dict[str, int | None] = dict.fromkeys(flickr8k.SPLIT_FILES)
    absent = Report(root, 0, 0, splits, ())
    caption_file = find_file(root, flickr8k.CAPTION_FILE) if root.is_dir() else None
    if caption_file is None:
        return absent
    try:
        folder = find_photos(root, caption_files.read(caption_file).captions)
    except DataError:
        return absent
    photos = sorted(path for path in folder.iterdir() if _is_photo(path))
    names = {path.name for path in photos}
    for split, file_name in flickr8k.SPLIT_FILES.items():
        if split_file := find_file(root, file_name):
            splits[split] = len(names.intersection(caption_files.read_names(split_file)))
    return Report(
        root=root,
        n_photos=len(photos),
        n_captions=len(caption_files.read_names(caption_file)),
        splits=splits,
        broken=_broken(photos, console or Console(quiet=True)),
    )


def _is_photo(path: Path) -> bool:
    return path.suffix.lower() in PHOTO_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _broken(photos: list[Path], console: Console) -> tuple[Path, ...]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside the interpreter's lock
        sound = track(pool.map(_decodes, photos), "Checking photos", total=len(photos), console=console, transient=True)
        return tuple(path for path, decodes in zip(photos, sound, strict=True) if not decodes)


def _decodes(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            image.draft("RGB", (64, 64))  # reads the whole file, but reconstructs an eighth of the size
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
    return True
