"""``diptych keys``, as typed."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from diptych import keyring
from diptych.cli import app
from shared.keys import read_keys


def run(*arguments: object, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, ["keys", *map(str, arguments)], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_a_key_is_shown_once_and_only_its_hash_is_kept(file: Path) -> None:
    key, told = run("create", "web", "--scope", "write", "--scope", "read", "--per-minute", 60, "--file", file)
    assert key == key.strip() + "\n"  # nothing but the key, for KEY=$(diptych keys create ...)
    assert "may write and read" in told
    assert key.strip() not in told + file.read_text()
    found = read_keys(file).find(key.strip())
    assert found is not None
    assert (found.name, found.scopes, found.requests_per_minute) == ("web", ("write", "read"), 60)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    listed, _ = run("list", "--file", file)
    assert all(word in listed for word in ("web", "write, read", "60"))
    assert key.strip() not in listed


def test_a_revoked_key_is_gone_and_the_others_stay(file: Path) -> None:
    kept, gone = (run("create", name, "--scope", "read", "--file", file)[0].strip() for name in ("kept", "gone"))
    file.chmod(0o644)
    assert run("revoke", "gone", "--file", file)[0] == "revoked gone\n"
    keys = read_keys(file)
    assert keys.find(gone) is None
    assert keys.find(kept) is not None
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    run("revoke", "kept", "--file", file)
    assert read_keys(file).keys == ()  # nobody may ask, which is not the same as no file
    assert sorted(path.name for path in file.parent.iterdir()) == [".keys.json.lock", "keys.json"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("create", "web", "--scope", "read"), "has a key web already"),
        (("create", "a b", "--scope", "read"), "'a b' is no name for a key"),
        (("revoke", "wob"), "has no key wob; it has: web"),
    ],
)
def test_what_cannot_be_done_is_said(file: Path, arguments: tuple[str, ...], says: str) -> None:
    run("create", "web", "--scope", "read", "--file", file)
    before = file.read_bytes()
    assert says in run(*arguments, "--file", file, code=1)[1]
    assert file.read_bytes() == before


def test_without_a_file(file: Path) -> None:
    for arguments in (("list",), ("revoke", "web")):
        assert "make it with diptych keys create" in run(*arguments, "--file", file, code=1)[1]
    assert "--file" in run("list", code=2)[1]
    assert "read, write" in " ".join(
        run("create", "web", "--scope", "root", "--file", file, code=2)[1].split()
    ).replace("'", "")


def test_edits_at_the_same_time_lose_nothing(file: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda n: keyring.create(file, f"key-{n}", ["read"]), range(24)))
    keys = read_keys(file)
    assert all(keys.find(key) is not None for key in made)
