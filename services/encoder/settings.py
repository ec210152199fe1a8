"""The encoder service's settings, ``DIPTYCH_ENCODER_*``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from shared.settings import StoreSettings


class EncoderSettings(StoreSettings):
    model_config = SettingsConfigDict(env_prefix="DIPTYCH_ENCODER_")

    port: int = Field(8001, ge=0, le=65535)
    engine: Literal["auto", "onnx", "torch"] = Field("auto", description="auto: torch where there is a CUDA device.")
    device: str = Field("auto", description="For the torch engine: auto, cpu, cuda or cuda:N.")
    threads: int | None = Field(None, ge=1, description="Cores that one model call may use; all when unset.")
    max_batch: int = Field(32, ge=1, description="The most items in one model call.")
    max_delay_ms: float = Field(0.0, ge=0, description="How long an idle lane waits for more items to join the first.")
    max_queue: int = Field(512, ge=1, description="Items that may wait in a lane; more are refused.")
    max_texts: int = Field(256, ge=1, description="Texts in one request.")
    max_candidates: int = Field(1000, ge=1, description="Candidates in one rerank request.")
    max_text_chars: int = Field(10_000, ge=1)
    max_pixels: int = Field(100_000_000, ge=1, description="Pixels that an upload may have, read from its header.")
    max_body_bytes: int = Field(64_000_000, ge=1000)
    decode_threads: int = Field(4, ge=1, description="Images decoded at the same time.")
