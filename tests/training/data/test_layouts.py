import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data import caption_files, layouts
from training.data.captioned import CaptionedImages, DataError

MakePhotos = Callable[[Path, Sequence[str]], None]
MakeCorpus = Callable[..., Path]


def captions(data: CaptionedImages) -> dict[str, tuple[str, ...]]:
    return {image.name: image.captions for image in data.images}


def test_flickr8k_is_recognised(make_corpus: MakeCorpus) -> None:
    root = make_corpus({"train": ["b.jpg", "a.jpg"], "dev": ["c.jpg"]})
    assert list(captions(layouts.load(root, "train"))) == ["b.jpg", "a.jpg"]
    with pytest.raises(DataError, match="testImages"):
        layouts.load(root, "test")


def test_captions_of_the_same_photos_in_another_language(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    root = make_corpus({"train": ["a.jpg"], "dev": ["b.jpg"]})
    chinese = tmp_path / "zh.caption.txt"
    chinese.write_text("a.jpg#zhc#1 两只狗\na.jpg#zhc#0 一只狗\nb.jpg#zhc#0 海滩\n", encoding="utf-8")
    assert captions(layouts.load(root, "train", captions_file=chinese)) == {"a.jpg": ("一只狗", "两只狗")}


def test_flickr30k_token_file(make_photos: MakePhotos, tmp_path: Path) -> None:
    make_photos(tmp_path / "flickr30k-images", ["1.jpg", "2.jpg"])
    (tmp_path / "results_20130124.token").write_text("1.jpg#0\tA man .\n1.jpg#1\tA dog .\n2.jpg#0\tA cat .\n")
    assert captions(layouts.load(tmp_path, "all")) == {"1.jpg": ("A man .", "A dog ."), "2.jpg": ("A cat .",)}


def test_split_files_of_another_corpus(make_photos: MakePhotos, tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", ["1.jpg", "2.jpg"])
    (tmp_path / "mine.token.txt").write_text("1.jpg#0\tA man .\n2.jpg#0\tA cat .\n")
    (tmp_path / "mine.devImages.txt").write_text("2.jpg\n")
    assert captions(layouts.load(tmp_path, "dev")) == {"2.jpg": ("A cat .",)}
    with pytest.raises(DataError, match=r"no \*trainImages\.txt under"):
        layouts.load(tmp_path, "train")


def test_csv_with_splits_quotes_and_folders(make_photos: MakePhotos, tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", ["a.jpg", "sub/b c.PNG", "v.jpg"])
    (tmp_path / "captions.csv").write_text(
        "\ufeffSplit,Image,Caption\r\n"
        'train,a.jpg,"A dog, and ""a\r\ncat"""\r\n'
        "train,sub/b c.PNG,Two  birds\r\n"
        "VAL,v.jpg,A view\r\n"
        "\r\n"
        "train,a.jpg,Again\r\n"
        "train,v.jpg,in two splits\r\n"
        "extra,v.jpg,unknown split\r\n"
        "train,too few\r\n"
        "train,a.jpg,too,many\r\n"
        "train,../../etc/a.jpg,elsewhere\r\n",
        encoding="utf-8",
        newline="",
    )
    train = layouts.load(tmp_path, "train")
    assert captions(train) == {"a.jpg": ('A dog, and "a cat"', "Again"), "sub/b c.PNG": ("Two birds",)}
    assert train.skipped == {"malformed line": 4, "name that leads out of the photo folder": 1}
    assert captions(layouts.load(tmp_path, "dev")) == {"v.jpg": ("A view",)}


def test_kaggle_captions_txt(make_photos: MakePhotos, tmp_path: Path) -> None:
    make_photos(tmp_path / "Images", ["a.jpg"])
    (tmp_path / "captions.txt").write_text('image,caption\na.jpg,A dog .\na.jpg,"A dog , running"\n')
    assert captions(layouts.load(tmp_path, "all")) == {"a.jpg": ("A dog .", "A dog , running")}


def test_jsonl_with_one_or_many_captions(make_photos: MakePhotos, tmp_path: Path) -> None:
    make_photos(tmp_path, ["a.jpg", "b.jpg"])
    records = [
        {"image": "a.jpg", "caption": "one"},
        {"image": "a.jpg", "captions": ["two", 3, "  "]},
        {"image": "b.jpg", "captions": ["three"]},
        {"image": 7, "caption": "no name"},
        {"caption": "no image"},
        ["not", "an", "object"],
    ]
    lines = [json.dumps(record) for record in records]
    (tmp_path / "captions.jsonl").write_text("\n".join([*lines, "{broken", "[" * 100_000]), encoding="utf-8")
    data = layouts.load(tmp_path, "all")
    assert captions(data) == {"a.jpg": ("one", "two"), "b.jpg": ("three",)}
    assert data.skipped == {"malformed line": 6, "empty caption": 1}


def test_photos_leading_out_of_the_folder_are_refused(make_photos: MakePhotos, tmp_path: Path) -> None:
    make_photos(tmp_path, ["secret.jpg", "data/a.jpg"])
    unsafe = ["../secret.jpg", str(tmp_path / "secret.jpg"), "x/../../secret.jpg", "..\\secret.jpg"]
    rows = [f"{name},a caption" for name in ["a.jpg", *unsafe]]
    (tmp_path / "data" / "captions.csv").write_text("\n".join(["image,caption", *rows]))
    data = layouts.load(tmp_path / "data", "all")
    assert captions(data) == {"a.jpg": ("a caption",)}
    assert data.skipped == {"name that leads out of the photo folder": 4}


def test_a_photo_without_a_split_gets_one_by_its_name(make_photos: MakePhotos, tmp_path: Path) -> None:
    names = [f"{number}.jpg" for number in range(200)]
    make_photos(tmp_path / "photos", names[:1])
    for name in names[1:]:
        (tmp_path / "photos" / name).hardlink_to(tmp_path / "photos" / names[0])
    (tmp_path / "captions.csv").write_text("\n".join(["image,caption", *(f"{name},a" for name in names)]))
    parts = {split: list(captions(layouts.load(tmp_path, split))) for split in ("train", "dev", "test")}
    assert sorted(name for part in parts.values() for name in part) == sorted(names)
    assert all(layouts.hashed_split(name) == split for split, part in parts.items() for name in part)
    shares = Counter(layouts.hashed_split(f"{number}.jpg") for number in range(20_000))
    assert shares["train"] == pytest.approx(18_000, abs=200)
    assert shares["dev"] == pytest.approx(1_000, abs=150)


def test_says_what_is_wrong(make_photos: MakePhotos, tmp_path: Path) -> None:
    make_photos(tmp_path, ["a.jpg"])
    with pytest.raises(DataError, match="unknown split 'val': use one of train, dev, test, all"):
        layouts.load(tmp_path, "val")
    with pytest.raises(DataError, match=r"no captions under .*: expected one of captions\.csv"):
        layouts.load(tmp_path, "all")
    (tmp_path / "captions.csv").write_text("file,text\na.jpg,A dog\n")
    with pytest.raises(DataError, match=r"is no caption file.*begins with 'file,text'"):
        layouts.load(tmp_path, "all")
    (tmp_path / "captions.csv").write_text('image,caption\na.jpg,fine\na.jpg,"never closed\na.jpg,lost\n')
    with pytest.raises(DataError, match=r"captions\.csv, line \d: .*quoting"):
        layouts.load(tmp_path, "all")
    with pytest.raises(DataError, match=r"cannot read .*gone\.csv: No such file"):
        layouts.load(tmp_path, "all", captions_file=tmp_path / "gone.csv")


@given(content=st.binary(max_size=300), suffix=st.sampled_from([".csv", ".jsonl", ".txt", ".token"]))
def test_any_bytes_give_a_table_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(b"image,caption\n" * (suffix == ".csv") + content)
    try:
        table = caption_files.read(path)
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert all(caption.strip() for group in table.captions.values() for caption in group)
