import pytest
from pydantic import ValidationError

from services.gateway.settings import GatewaySettings


def test_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "DIPTYCH_GATEWAY_PORT": "8123",
        "DIPTYCH_GATEWAY_ENCODER_URL": "http://encoder:8001",
        "DIPTYCH_GATEWAY_THUMBNAIL_SIZES": "[64, 640]",
        "DIPTYCH_GATEWAY_CORS_ORIGINS": '["https://example.org"]',
        "DIPTYCH_REDIS_URL": "redis://redis:6379/1",
        "DIPTYCH_LOG_LEVEL": "warning",
    }.items():
        monkeypatch.setenv(name, value)
    settings = GatewaySettings()
    assert (settings.port, settings.encoder_url) == (8123, "http://encoder:8001")
    assert (settings.thumbnail_sizes, settings.cors_origins) == ((64, 640), ("https://example.org",))
    assert (settings.redis_url, settings.log_level) == ("redis://redis:6379/1", "warning")
    monkeypatch.setenv("DIPTYCH_GATEWAY_REDIS_URL", "redis://mine:6379/0")
    assert GatewaySettings().redis_url == "redis://mine:6379/0"


@pytest.mark.parametrize(
    ("name", "value"),
    [("MAX_K", "0"), ("MAX_K", "10001"), ("THUMBNAIL_SIZES", "[]"), ("THUMBNAIL_SIZES", "[0]"), ("POLL_SECONDS", "0")],
)
def test_what_cannot_work_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"DIPTYCH_GATEWAY_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        GatewaySettings()


def test_the_internal_token_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_INTERNAL_TOKEN", "a-secret")
    settings = GatewaySettings()
    assert settings.internal_token is not None
    assert settings.internal_token.get_secret_value() == "a-secret"
    assert "a-secret" not in f"{settings!r} {settings} {settings.model_dump_json()}"
    monkeypatch.setenv("DIPTYCH_INTERNAL_TOKEN", "a-secret of two lines\n")
    with pytest.raises(ValidationError, match="printable ASCII without blanks") as caught:
        GatewaySettings()
    assert "a-secret" not in f"{caught.value!r} {caught.value}"
    monkeypatch.setenv("DIPTYCH_INTERNAL_TOKEN", "")
    assert GatewaySettings().internal_token is None
