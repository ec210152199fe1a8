import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from training.data import flickr8k
from training.data.captioned import DataError

MakeCorpus = Callable[..., Path]
SPLITS = {"train": ["t3.jpg", "t1.jpg", "t2.jpg"], "dev": ["d1.jpg"]}


@pytest.mark.parametrize("photos", ["Flicker8k_Dataset", "Flickr8k_Dataset", "Images", "deep/Flicker8k_Dataset"])
@pytest.mark.parametrize("texts", ["Flickr8k_text", ".", "deep/Flickr8k_text"])
def test_finds_photos_and_texts_wherever_copies_put_them(make_corpus: MakeCorpus, photos: str, texts: str) -> None:
    root = make_corpus(SPLITS, photos=photos, texts=texts)

    data = flickr8k.load(root, "train")

    assert [image.name for image in data.images] == ["t3.jpg", "t1.jpg", "t2.jpg"]
    assert [image.path for image in data.images] == [root / photos / name for name in SPLITS["train"]]
    assert data.images[0].captions == tuple(f"Caption {number} of t3.jpg ." for number in range(5))
    assert not data.skipped
    assert data.describe() == "3 images, 15 captions"


def test_all_is_every_captioned_photo_in_the_order_of_the_token_file(make_corpus: MakeCorpus) -> None:
    data = flickr8k.load(make_corpus(SPLITS), "all")
    assert [image.name for image in data.images] == ["d1.jpg", "t1.jpg", "t2.jpg", "t3.jpg"]


def test_captions_come_in_the_order_of_their_numbers(make_corpus: MakeCorpus) -> None:
    root = make_corpus(SPLITS)
    lines = "d1.jpg#10\tten\nd1.jpg#2\t two  words \nd1.jpg#0\tzero\n"
    (root / "Flickr8k_text" / "Flickr8k.token.txt").write_text(lines, encoding="utf-8")
    assert flickr8k.load(root, "dev").images[0].captions == ("zero", "two words", "ten")


def test_bad_entries_are_skipped_and_counted(make_corpus: MakeCorpus) -> None:
    splits = {"train": ["t1.jpg", "gone.jpg", "uncaptioned.jpg", "blank.jpg", "t1.jpg", "../out.jpg"]}
    extra = [
        "2258277193_586949ec62.jpg.1#0\tthe odd entry",
        "2258277193_586949ec62.jpg.1#1\tthe odd entry again",
        "a line without a tab",
        "t1.jpg#x\tno number",
        "broken\udcff.jpg#0\tnot UTF-8",
        "../out.jpg#0\tleads elsewhere",
    ]
    root = make_corpus({"train": ["t1.jpg", "gone.jpg"]})
    texts = root / "Flickr8k_text"
    (root / "Flicker8k_Dataset" / "gone.jpg").unlink()
    (root / "Flicker8k_Dataset" / "blank.jpg").write_bytes(b"")
    with (texts / "Flickr8k.token.txt").open("ab") as file:
        file.write("\n".join([*extra, "blank.jpg#0\t ", ""]).encode("utf-8", "surrogateescape"))
    (texts / "Flickr_8k.trainImages.txt").write_text("\n".join(splits["train"]), encoding="utf-8")

    data = flickr8k.load(root, "train")

    assert [image.name for image in data.images] == ["t1.jpg"]
    assert data.skipped == {
        "name that is not a photo's": 1,
        "malformed line": 3,
        "name that leads out of the photo folder": 2,  # in the token file and in the split file
        "empty caption": 1,
        "photo without a file": 1,
        "photo without a caption": 2,
        "photo listed twice": 1,
    }
    assert "1 photo without a file" in data.describe()


def test_a_missing_split_file_matters_only_to_its_split(make_corpus: MakeCorpus) -> None:
    root = make_corpus(SPLITS)
    assert len(flickr8k.load(root, "dev")) == 1
    with pytest.raises(DataError, match=r"no Flickr_8k\.testImages\.txt under .*corpus: copy it there"):
        flickr8k.load(root, "test")


def test_says_what_is_missing(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        flickr8k.load(tmp_path / "nowhere", "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no Flickr8k\.token\.txt under"):
        flickr8k.load(tmp_path / "empty", "train")
    root = make_corpus(SPLITS)
    for photo in (root / "Flicker8k_Dataset").iterdir():
        photo.unlink()
    with pytest.raises(DataError, match="none of the captioned photos"):
        flickr8k.load(root, "train")


def test_a_split_without_a_single_usable_photo_is_an_error(make_corpus: MakeCorpus) -> None:
    root = make_corpus(SPLITS)
    (root / "Flicker8k_Dataset" / "d1.jpg").unlink()
    with pytest.raises(DataError, match=r"no captioned photo.*1 photo without a file"):
        flickr8k.load(root, "dev")


def test_names_that_no_file_system_takes_are_counted(make_corpus: MakeCorpus) -> None:
    hopeless: Sequence[str] = ["x" * 5000 + ".jpg", "nul\0.jpg"]
    root = make_corpus(SPLITS, extra_lines=[f"{name}#0\tA caption" for name in hopeless])
    assert flickr8k.load(root, "all").skipped == {"photo without a file": 2}


@pytest.mark.skipif("FLICKR8K_ROOT" not in os.environ, reason="FLICKR8K_ROOT is not set")
def test_the_real_corpus() -> None:
    root = Path(os.environ["FLICKR8K_ROOT"])
    train, dev = flickr8k.load(root, "train"), flickr8k.load(root, "dev")
    assert (len(train), len(dev)) == (6000, 1000)
    assert {len(image.captions) for image in (*train.images, *dev.images)} == {5}
    assert train.skipped == {"name that is not a photo's": 1}
    assert not {image.name for image in train.images} & {image.name for image in dev.images}
