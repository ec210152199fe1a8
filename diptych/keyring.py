"""Making and revoking API keys: edits of the file that a gateway follows."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from shared.artifacts.manifest import write_atomically
from shared.keys import ApiKey, KeyFile, KeyFileError, Scope, new_key, read_keys, sha256


def create(path: Path, name: str, scopes: Sequence[Scope], requests_per_minute: int | None = None) -> str:
    """Add a key to the file, which is made when it is not there, and return it: it is kept nowhere.

    Raises :class:`KeyFileError` when the name is taken or cannot be one, or the file is no file of keys; OSError when
    it cannot be written.
    """
    with _editing(path):
        keys = read_keys(path).keys if path.exists() else ()
        if name in {key.name for key in keys}:
            raise KeyFileError(f"{path} has a key {name} already: revoke it first, or choose another name")
        key = new_key()
        try:
            entry = ApiKey(name=name, sha256=sha256(key), scopes=tuple(scopes), requests_per_minute=requests_per_minute)
        except ValidationError as error:
            raise KeyFileError(f"{name!r} is no name for a key: take 1 to 64 letters, digits and -._") from error
        _write(path, KeyFile(keys=(*keys, entry)))
        return key


def revoke(path: Path, name: str) -> None:
    """Take a key out of the file. Raises what :func:`create` raises, and when there is no such key."""
    with _editing(path):
        keys = read_keys(path).keys
        kept = tuple(key for key in keys if key.name != name)
        if len(kept) == len(keys):
            raise KeyFileError(f"{path} has no key {name}; it has: {', '.join(key.name for key in keys) or 'none'}")
        _write(path, KeyFile(keys=kept))


@contextmanager
def _editing(path: Path) -> Iterator[None]:
    """One edit at a time: each reads the whole file and writes it anew."""
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(path: Path, keys: KeyFile) -> None:
    before = path.stat() if path.exists() else None
    write_atomically(path, keys.model_dump_json(indent=1, exclude_none=True) + "\n", mode=0o600)
    if before is not None and before.st_uid != os.geteuid():
        os.chown(path, before.st_uid, before.st_gid)  # else root's edit would shut out the gateway, and do nothing
