from collections.abc import Callable
from pathlib import Path

import pytest

from training.data import flickr8k
from training.data.verify import Report, verify

MakeCorpus = Callable[..., Path]


def test_a_partial_copy_is_no_failure(make_corpus: MakeCorpus) -> None:
    root = make_corpus({"train": ["t1.jpg", "t2.jpg"], "dev": ["d1.jpg"]})
    (root / "Flicker8k_Dataset" / "t2.jpg").unlink()
    report = verify(root)
    assert report == Report(root, 2, 15, {"train": 1, "dev": 1, "test": None}, ())
    assert report.state == "partial"
    assert "train          1 of 6,000" in str(report)
    assert "no Flickr_8k.testImages.txt" in str(report)


def test_broken_photos_are_found(make_corpus: MakeCorpus) -> None:
    root = make_corpus({"train": ["cut.jpg", "text.jpg", "empty.jpg", "sound.jpg"]})
    photos = root / "Flicker8k_Dataset"
    (photos / "cut.jpg").write_bytes((photos / "cut.jpg").read_bytes()[:-100])
    (photos / "text.jpg").write_text("no photo at all")
    (photos / "empty.jpg").write_bytes(b"")
    report = verify(root)
    assert report.state == "damaged"
    assert [path.name for path in report.broken] == ["cut.jpg", "empty.jpg", "text.jpg"]
    assert "3: cut.jpg, empty.jpg, text.jpg" in str(report)


def test_nothing_there(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    assert verify(tmp_path / "nowhere").state == "absent"
    assert verify(tmp_path).state == "absent"
    root = make_corpus({"train": ["t1.jpg"]})
    (root / "Flicker8k_Dataset" / "t1.jpg").unlink()
    assert verify(root).state == "absent"


@pytest.mark.parametrize(
    ("n_photos", "n_captions", "test", "state"),
    [
        (8091, 40460, 1000, "complete"),
        (8090, 40460, 1000, "partial"),
        (8091, 40455, 1000, "partial"),
        (8091, 40460, 999, "partial"),
    ],
)
def test_complete_means_the_published_counts(n_photos: int, n_captions: int, test: int, state: str) -> None:
    splits = {**flickr8k.N_SPLIT, "test": test}
    assert Report(Path(), n_photos, n_captions, splits, ()).state == state
