from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MakePhotos = Callable[[Path, Sequence[str]], None]
MakeCorpus = Callable[..., Path]


@pytest.fixture
def make_photos() -> MakePhotos:
    """Write JPEGs of coloured noise, each another, under the given names."""

    def make(folder: Path, names: Sequence[str]) -> None:
        for seed, name in enumerate(names):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)
            Image.fromarray(noise).save(path, "JPEG", quality=90)

    return make


@pytest.fixture
def make_corpus(make_photos: MakePhotos, tmp_path: Path) -> MakeCorpus:
    """Write a small corpus in Flickr8k's official layout and return its root."""

    def make(
        splits: Mapping[str, Sequence[str]],
        *,
        root: Path = tmp_path / "corpus",
        photos: str = "Flicker8k_Dataset",
        texts: str = "Flickr8k_text",
        extra_lines: Sequence[str] = (),
    ) -> Path:
        names = [name for split in splits.values() for name in split]
        make_photos(root / photos, names)
        (root / texts).mkdir(parents=True, exist_ok=True)
        lines = [f"{name}#{number}\tCaption {number} of {name} ." for name in sorted(names) for number in range(5)]
        (root / texts / "Flickr8k.token.txt").write_text("\n".join([*lines, *extra_lines]) + "\n", encoding="utf-8")
        for split, listed in splits.items():
            (root / texts / f"Flickr_8k.{split}Images.txt").write_text("\n".join(listed) + "\n", encoding="utf-8")
        return root

    return make
