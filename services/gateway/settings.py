"""What the gateway can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from services.gateway import redis_urls
from services.gateway.redis_urls import FORMS
from shared.keys import read_keys
from shared.settings import ServiceSettings


class GatewaySettings(ServiceSettings):
    """Read from ``DIPTYCH_GATEWAY_*``; the address of Redis also from plain ``DIPTYCH_REDIS_URL``."""

    model_config = SettingsConfigDict(env_prefix="DIPTYCH_GATEWAY_")

    port: int = Field(8000, ge=0, le=65535)
    encoder_url: str = Field(
        "http://127.0.0.1:8001",
        description="Where the encoder service answers: one URL, or several with commas between them. Each address of "
        "a name that has several is an encoder of its own.",
    )
    index_url: str = Field("http://127.0.0.1:8002", description="Where the index service answers.")
    redis_url: str | None = Field(
        None,
        validation_alias=AliasChoices("DIPTYCH_GATEWAY_REDIS_URL", "DIPTYCH_REDIS_URL", "redis_url"),
        description=f"The cache: {FORMS}. Without one nothing is cached.",
    )
    redis_password: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("DIPTYCH_GATEWAY_REDIS_PASSWORD", "DIPTYCH_REDIS_PASSWORD", "redis_password"),
        description="For a redis_url without one.",
    )
    redis_sentinel_password: SecretStr | None = Field(None, description="For sentinels that ask for one.")
    redis_ca_file: Path | None = Field(
        None, description="Certificates that vouch for Redis over TLS; those of the system when unset."
    )
    api_keys: Path | None = Field(
        None, description="File of API keys (diptych keys); it is followed. Without one everybody may do everything."
    )

    max_k: int = Field(1000, ge=1, le=10_000, description="The largest number of results that can be asked for.")
    max_text_chars: int = Field(10_000, ge=1, description="The longest query text, in characters.")
    max_upload_bytes: int = Field(20 * 1024 * 1024, ge=1, description="The largest picture that can be uploaded.")
    max_searches: int = Field(
        64, ge=1, description="Searches and embeddings worked on at once; those above are refused with 503."
    )
    max_in_flight: int = Field(256, ge=1, description="All other requests worked on at once; likewise.")

    rerank_depth: int = Field(50, ge=1, description="How many of the dual encoder's best the cross model reranks.")
    max_rerank: int = Field(200, ge=1, description="The most it reranks when k is larger than rerank_depth.")

    poll_seconds: float = Field(1.0, gt=0, description="How often the neighbours are asked what they serve.")
    connect_seconds: float = Field(1.0, gt=0, description="How long a connection to a neighbour may take.")
    embed_seconds: float = Field(10.0, gt=0, description="How long an embedding is waited for.")
    search_seconds: float = Field(10.0, gt=0, description="How long the index is waited for.")
    rerank_seconds: float = Field(10.0, gt=0, description="How long reranking is waited for before going without.")

    cache_ttl_seconds: int = Field(3600, ge=1, description="How long an entry of the cache is good.")
    cache_max_value_bytes: int = Field(512 * 1024, ge=1, description="Larger entries are not cached.")
    cache_hot_bytes: int = Field(
        16 * 1024 * 1024, ge=0, description="How much of the cache this process keeps at hand, beside Redis."
    )
    cache_hot_seconds: float = Field(10.0, ge=0, description="How long it does; then Redis is asked again.")
    redis_timeout_seconds: float = Field(
        0.25, gt=0, description="How long Redis is waited for before it counts as away."
    )
    redis_retry_seconds: float = Field(1.0, gt=0, description="How often a Redis that is away is looked for.")

    thumbnail_sizes: tuple[Annotated[int, Field(ge=16, le=2048)], ...] = Field(
        (128, 256, 512), min_length=1, description="Thumbnail sizes on offer, in pixels, as a JSON list."
    )
    cors_origins: tuple[str, ...] = Field(
        (), description="Web pages from these origins may call the gateway, as a JSON list. Closed by default."
    )

    @field_validator("redis_url")
    @classmethod
    def _is_of_redis(cls, url: str | None) -> str | None:
        if url is not None:
            redis_urls.check(url)
        return url

    @field_validator("redis_ca_file")
    @classmethod
    def _is_there(cls, path: Path | None) -> Path | None:
        if path is not None and not path.is_file():
            raise ValueError(f"there is no file {path}")
        return path

    @field_validator("api_keys")
    @classmethod
    def _can_be_read(cls, path: Path | None) -> Path | None:
        if path is not None:
            read_keys(path)
        return path
