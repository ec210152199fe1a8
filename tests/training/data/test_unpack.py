import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from training.data.captioned import DataError
from training.data.unpack import require_space, unpack

QUIET = Console(quiet=True)


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def test_fills_an_empty_folder_and_does_not_double_the_top_folder(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", {"photos/a.txt": b"a", "photos/sub/b.txt": b"b", "__MACOSX/._a": b"x"})
    (tmp_path / "photos").mkdir()
    unpack(archive, tmp_path / "photos", QUIET)
    found = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*.txt")}
    assert found == {"photos/a.txt": b"a", "photos/sub/b.txt": b"b"}
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip", "photos"}


def test_a_damaged_member_leaves_no_folder(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", {"a.txt": b"first", "b.txt": b"payload-to-damage"})
    archive.write_bytes(archive.read_bytes().replace(b"payload-to-damage", b"payload-to-DAMAGE"))
    with pytest.raises(DataError, match=r"a\.zip is damaged \(Bad CRC-32 for file 'b\.txt'\): delete it and run again"):
        unpack(archive, tmp_path / "out", QUIET)
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip"}


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", {"a.txt": b"x" * 1000})
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(DataError, match="is damaged"):
        unpack(archive, tmp_path / "out", QUIET)


def test_a_folder_with_content_is_never_replaced(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", {"a.txt": b"new"})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"cannot unpack .* Directory not empty"):
        unpack(archive, tmp_path / "out", QUIET)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


@given(
    before=st.lists(st.sampled_from(["a", "b c", "."]), max_size=2),
    slash=st.sampled_from(["/", "\\"]),
    start=st.sampled_from(["..", "/", "\\", "C:", ""]),
)
def test_no_member_leads_out_of_the_folder(
    tmp_path_factory: pytest.TempPathFactory, before: list[str], slash: str, start: str
) -> None:
    base = tmp_path_factory.mktemp("slip")
    parts = [*before, "..", "x.txt"] if start == ".." else [start, *before, "x.txt"]
    archive = write_zip(base / "a.zip", {slash.join(parts): b"x"})
    with pytest.raises(DataError, match="not safe to unpack"):
        unpack(archive, base / "in" / "out", QUIET)
    assert {path.name for path in base.iterdir()} == {"a.zip"}


def test_space() -> None:
    require_space(Path(), 0, "for nothing")
    with pytest.raises(DataError, match=r"1,000,000\.00 GB are needed to try, but .* GB free"):
        require_space(Path(), 10**15, "to try")
