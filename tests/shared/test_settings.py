"""Settings from files, in place of the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.demo.settings import DemoSettings
from services.gateway.settings import GatewaySettings


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that the settings read. Nothing else is set."""
    for name in ("DIPTYCH_INTERNAL_TOKEN", "DIPTYCH_REDIS_PASSWORD", "DIPTYCH_DEMO_API_KEY", "DIPTYCH_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DIPTYCH_SECRETS_DIR", str(tmp_path))
    return tmp_path


def test_secrets_come_from_files(secrets: Path) -> None:
    (secrets / "DIPTYCH_INTERNAL_TOKEN").write_text("token\n")
    (secrets / "DIPTYCH_REDIS_PASSWORD").write_text("word\n")
    (secrets / "DIPTYCH_DEMO_API_KEY").write_text("dk_1\n")
    gateway, demo = GatewaySettings(), DemoSettings()
    assert gateway.internal_token is not None
    assert gateway.internal_token.get_secret_value() == "token"
    assert gateway.redis_password is not None
    assert gateway.redis_password.get_secret_value() == "word"
    assert demo.api_key is not None
    assert demo.api_key.get_secret_value() == "dk_1"


def test_an_empty_file_sets_nothing(secrets: Path) -> None:
    (secrets / "DIPTYCH_INTERNAL_TOKEN").write_text("")
    (secrets / "DIPTYCH_DEMO_API_KEY").write_text("\n")
    assert GatewaySettings().internal_token is None
    assert DemoSettings().api_key is None


def test_the_environment_goes_before_a_file(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (secrets / "DIPTYCH_INTERNAL_TOKEN").write_text("from the file")
    monkeypatch.setenv("DIPTYCH_INTERNAL_TOKEN", "from-the-environment")
    token = GatewaySettings().internal_token
    assert token is not None
    assert token.get_secret_value() == "from-the-environment"


def test_a_missing_folder_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_SECRETS_DIR", "/nowhere")
    with pytest.raises(ValueError, match="/nowhere"):
        GatewaySettings()
