"""The encoder service's settings, ``DIPTYCH_ENCODER_*``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from shared.engines import images, texts
from shared.settings import StoreSettings


class EncoderSettings(StoreSettings):
    model_config = SettingsConfigDict(env_prefix="DIPTYCH_ENCODER_")

    port: int = Field(8001, ge=0, le=65535)
    engine: Literal["auto", "onnx", "torch"] = Field("auto", description="auto: torch where there is a CUDA device.")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N.")
    threads: int | None = Field(None, ge=1, description="Cores that one model call may use; all when unset.")
    model_calls: int = Field(
        1,
        ge=1,
        description="Calls of one tower at the same time. On two cores, 2 of one thread each embed 1.2 times as many "
        "texts a second under load, and a text by itself takes 1.2 times as long.",
    )
    max_text_batch: int = Field(32, ge=1, description="The most texts in one model call.")
    # On a CPU more images in a call make none cheaper, and each takes 24 MB of memory meanwhile.
    max_image_batch: int = Field(8, ge=1, description="The most images in one model call; raise it on a GPU.")
    max_delay_ms: float = Field(0.0, ge=0, description="How long an item waits for others to join its model call.")
    max_text_queue: int = Field(512, ge=1, description="Texts that may wait; more are refused.")
    max_image_queue: int = Field(64, ge=1, description="Image requests at the same time, uploads included.")
    max_rerank_queue: int = Field(64, ge=1, description="Rerank requests that may wait.")
    max_texts: int = Field(256, ge=1, description="Texts in one request.")
    max_candidates: int = Field(1000, ge=1, description="Candidates in one rerank request.")
    max_text_chars: int = Field(texts.MAX_CHARS, ge=1, le=texts.MAX_CHARS, description="Characters in one text.")
    max_pixels: int = Field(
        images.MAX_PIXELS,
        ge=1,
        le=images.PILLOW_MAX_PIXELS,
        description="Pixels that an upload may have, read from its header.",
    )
    max_body_bytes: int = Field(64_000_000, ge=1000, description="The largest request.")
    decode_threads: int = Field(
        2, ge=1, description="Images decoded at the same time; each may take 8 bytes a pixel for as long as that takes."
    )

    @model_validator(mode="after")
    def _a_request_fits_the_queue(self) -> EncoderSettings:
        if self.max_texts > self.max_text_queue:
            raise ValueError(
                f"max_texts ({self.max_texts}) is over max_text_queue ({self.max_text_queue}): such a request would "
                "always be refused; lower the one or raise the other"
            )
        return self
