"""The file of API keys: what it holds, and how it says that it is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shared.keys import KeyFileError, new_key, read_keys, sha256

ENTRY = {"name": "web", "sha256": sha256("dk_web"), "scopes": ["read"]}


def written(path: Path, *entries: Any) -> Path:
    path.write_text(json.dumps({"keys": entries}))
    return path


def test_a_key_is_found_by_itself_alone(tmp_path: Path) -> None:
    other = {**ENTRY, "name": "other", "sha256": sha256("dk_other"), "requests_per_minute": 5}
    keys = read_keys(written(tmp_path / "keys.json", ENTRY, other))
    for key, name in (("dk_web", "web"), ("dk_other", "other")):
        found = keys.find(key)
        assert found is not None
        assert found.name == name
    for wrong in (
        "",
        "dk_",
        "dk_we",
        "dk_webx",
        "DK_WEB",
        sha256("dk_web"),
        "web",
        "ä\udcff".encode(errors="replace").decode(),
    ):
        assert keys.find(wrong) is None
    assert read_keys(written(tmp_path / "none.json")).find("dk_web") is None


def test_no_two_keys_are_alike() -> None:
    made = {new_key() for _ in range(100)}
    assert len(made) == 100
    assert all(key.startswith("dk_") and len(key) == 46 for key in made)  # 256 bits in base64


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([{**ENTRY, "sha256": "dk_put_here_by_mistake"}], "keys.0.sha256"),
        ([{**ENTRY, "scopes": ["root"]}], "'read', 'write' or 'admin'"),
        ([{**ENTRY, "scopes": []}], "keys.0.scopes"),
        ([{**ENTRY, "name": "a b"}], "keys.0.name"),
        ([{**ENTRY, "requests_per_minute": 0}], "keys.0.requests_per_minute"),
        ([{**ENTRY, "request_per_minute": 60}], "keys.0.request_per_minute"),
        ([ENTRY, {**ENTRY, "sha256": sha256("dk_other")}], "two keys have the same name"),
        ([ENTRY, {**ENTRY, "name": "other"}], "two keys have the same sha256"),
    ],
)
def test_what_is_wrong_is_named_and_no_value_shown(tmp_path: Path, entries: list[Any], says: str) -> None:
    with pytest.raises(KeyFileError) as caught:
        read_keys(written(tmp_path / "keys.json", *entries))
    assert says in str(caught.value)
    assert str(tmp_path / "keys.json") in str(caught.value)
    assert "by_mistake" not in str(caught.value)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"No such file or directory.*diptych keys create"):
        read_keys(tmp_path / "missing.json")
    (tmp_path / "torn.json").write_text('{"keys": [')
    with pytest.raises(KeyFileError, match="no file of API keys"):
        read_keys(tmp_path / "torn.json")
