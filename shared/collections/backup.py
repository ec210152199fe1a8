"""Copies of a library, made while it is written to, and the way back."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from shared.artifacts import ArtifactError
from shared.artifacts.manifest import sync_directory
from shared.collections.library import LIBRARY, LibraryReader

Step = Callable[[int, int], None]


def backup(library: Path, target: Path, step: Step = lambda _done, _of: None) -> int:
    """Copy the library at ``library`` as it is now to ``target``, which must not exist and appears when it is whole.

    Photos are linked where the file system can. Returns how many there are. Raises :class:`ArtifactError`.
    """
    if not LibraryReader(library).exists:
        raise ArtifactError(f"{library} holds no library: nothing has been put into this collection")
    if target.exists():
        raise ArtifactError(f"{target} already exists; give another folder")
    beside = target.with_name(f".{target.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        with closing(sqlite3.connect(library / LIBRARY)) as connection:
            connection.execute("VACUUM INTO ?", (str(beside / LIBRARY),))
        count = _copy_photos(library, beside, step)
        beside.rename(target)
    except (OSError, sqlite3.Error) as error:
        raise ArtifactError(f"the library could not be copied to {target}: {error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return count


def restore(source: Path, library: Path, step: Step = lambda _done, _of: None) -> int:
    """Put the copy at ``source`` in the place of the library at ``library``, which no service may be writing to.

    What was put in since is removed, also from indexes that were built meanwhile; the library of before stays beside
    as ``NAME.before``. Returns how many photos there are. Raises :class:`ArtifactError`: nothing has changed then.
    """
    if not LibraryReader(source).exists:
        raise ArtifactError(f"{source} is no copy of a library: it has no {LIBRARY}")
    before, beside = library.with_name(f"{library.name}.before"), library.with_name(f".{library.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        library.mkdir(parents=True, exist_ok=True)
        with (library / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            beside.mkdir()
            shutil.copyfile(source / LIBRARY, beside / LIBRARY)
            count = _copy_photos(source, beside, step, check=True)
            _renumber(beside / LIBRARY, LibraryReader(library).known())
            shutil.rmtree(before, ignore_errors=True)
            library.rename(before)
            beside.rename(library)
            sync_directory(library.parent)
    except BlockingIOError as error:
        raise ArtifactError(f"a service is writing to {library}: stop it first") from error
    except (OSError, sqlite3.Error) as error:
        raise ArtifactError(f"{source} could not be restored: {error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return count


def _copy_photos(source: Path, target: Path, step: Step, *, check: bool = False) -> int:
    """The photos that the library in ``target`` speaks of."""
    with closing(sqlite3.connect(target / LIBRARY)) as connection:
        rows = connection.execute("SELECT DISTINCT sha256 FROM photos WHERE sha256 IS NOT NULL").fetchall()
    for done, (sha256,) in enumerate(rows, 1):
        old, new = (LibraryReader(folder).file(sha256) for folder in (source, target))
        new.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(old, new)
        except OSError:  # another file system
            shutil.copyfile(old, new)
        if check and hashlib.sha256(new.read_bytes()).hexdigest() != sha256:
            raise OSError(f"{old} is damaged")
        step(done, len(rows))
    return len(rows)


def _renumber(path: Path, known: dict[str, int]) -> None:
    """Make every photo news to whoever has followed the library of before, which had the changes ``known``."""
    over = max(known.values(), default=0)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        last = int(connection.execute("SELECT coalesce(max(seq), 0) FROM photos").fetchone()[0])
        # By way of numbers that no row has, for they are unique.
        connection.execute("UPDATE photos SET seq = -seq")
        connection.execute("UPDATE photos SET seq = ? - seq", (over,))
        connection.execute("UPDATE items SET seq = seq + ?", (over,))
        kept = {photo for (photo,) in connection.execute("SELECT id FROM photos")}
        gone = [(photo, over + last + n) for n, photo in enumerate(sorted(known.keys() - kept), 1)]
        connection.executemany("INSERT INTO photos (id, seq) VALUES (?, ?)", gone)
        connection.execute("COMMIT")
