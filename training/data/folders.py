"""Finding a data set's files under the folder that the user named, up to two folders deep."""

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from training.data.captioned import DataError


def find_file(root: Path, pattern: str) -> Path | None:
    """The first file that matches, the one nearest to `root` first, then by name; None where there is none."""
    for folder in folders(root):
        matches = sorted(path for path in folder.glob(pattern) if path.is_file() and not path.name.startswith("."))
        if matches:
            return matches[0]
    return None


def find_photos(root: Path, names: Iterable[str]) -> Path:
    """The folder that holds most of the named photos, which may lie in folders of their own in it.

    Raises DataError if no folder holds any.
    """
    wanted = {PurePosixPath(name).parts[0] for name in names}
    found = {folder: sum(entry.name in wanted for entry in _entries(folder)) for folder in folders(root)}
    best = max(found, key=lambda folder: found[folder])  # the first of equals
    if not found[best]:
        example = min(wanted, default="")
        raise DataError(f"none of the captioned photos (such as {example!r}) lies under {root}: put their folder there")
    return best


def folders(root: Path) -> Iterator[Path]:
    """`root` and the folders down to two levels below it, nearest first; without hidden and archive-litter ones.

    Raises DataError if `root` is not a folder.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: give the folder that holds the data set")
    yield root
    level = [root]
    for _ in range(2):
        level = [path for folder in level for path in _entries(folder) if _is_data_folder(path)]
        yield from level


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except PermissionError:  # a neighbour's folder, not part of the data set
        return []


def _is_data_folder(path: Path) -> bool:
    return not path.name.startswith((".", "__MACOSX")) and path.is_dir()
