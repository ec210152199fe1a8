"""Unpacking a zip archive so that a folder appears whole or not at all, and nothing lands outside it."""

import shutil
import zipfile
import zlib
from pathlib import Path

from rich.console import Console
from rich.progress import track

from training.data.captioned import DataError


def unpack(archive: Path, folder: Path, console: Console) -> None:
    """Make `folder` from the archive's content; a top folder of the same name inside the archive is not doubled.

    macOS litter (`__MACOSX/`, `._*`) is left out. Raises DataError, and leaves no `folder`, if the archive is damaged
    (zip holds a CRC of each file), if a member's name leads out of the folder, or if the disk is too small.
    """
    scratch = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as content:
            members = [
                member for member in content.infolist() if not member.is_dir() and not _is_litter(member.filename)
            ]
            for member in members:
                _refuse_escape(archive, member.filename)
            require_space(folder.parent, sum(member.file_size for member in members), f"to unpack {archive.name}")
            for member in track(members, f"Unpacking {archive.name}", console=console, transient=True):
                content.extract(member, scratch)
        top = scratch / folder.name
        (top if top.is_dir() else scratch).replace(folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{archive} is damaged ({error}): delete it and run again") from error
    except OSError as error:
        raise DataError(f"cannot unpack {archive} to {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def require_space(folder: Path, n_bytes: int, purpose: str) -> None:
    """Raise DataError unless the disk under `folder` has `n_bytes` free."""
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise DataError(f"{n_bytes / 1e9:,.2f} GB are needed {purpose}, but {folder} has {free / 1e9:,.2f} GB free")


def _is_litter(name: str) -> bool:
    return name.startswith("__MACOSX/") or name.rpartition("/")[2].startswith("._")


def _refuse_escape(archive: Path, name: str) -> None:
    parts = name.replace("\\", "/").split("/")
    if not parts[0] or ".." in parts or ":" in parts[0]:
        raise DataError(f"{archive} is not safe to unpack: its member {name!r} leads out of the folder; delete it")
