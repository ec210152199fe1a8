"""Settings from the environment, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from services.encoder.settings import EncoderSettings


def test_they_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_STORE", "/srv/store")
    monkeypatch.setenv("DIPTYCH_ENCODER_PORT", "9001")
    monkeypatch.setenv("DIPTYCH_ENCODER_ENGINE", "onnx")
    monkeypatch.setenv("DIPTYCH_ENCODER_THREADS", "2")
    settings = EncoderSettings()
    assert (settings.store, settings.port, settings.engine, settings.threads) == (Path("/srv/store"), 9001, "onnx", 2)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"engine": "tensorrt"}, "engine"),
        ({"device": "gpu"}, "device"),
        ({"max_image_batch": 0}, "max_image_batch"),
        ({"max_delay_ms": -1}, "max_delay_ms"),
        ({"max_pixels": 10**9}, "max_pixels"),
        ({"max_text_chars": 10_001}, "max_text_chars"),
        ({"max_texts": 600}, r"max_texts \(600\) is over max_text_queue \(512\)"),
    ],
)
def test_what_cannot_work_is_refused_at_the_start(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        EncoderSettings.model_validate(changes)
