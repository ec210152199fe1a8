"""The index service's settings, ``DIPTYCH_INDEX_*``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from shared.settings import MilvusSettings, StoreSettings


class IndexSettings(StoreSettings, MilvusSettings):
    model_config = SettingsConfigDict(env_prefix="DIPTYCH_INDEX_")

    port: int = Field(8002, ge=0, le=65535)
    photos: Path | None = Field(None, description="Where the photos lie here, when not where the index was built.")
    threads: int | None = Field(None, ge=1, description="Cores that one search may use; all when unset.")
    max_k: int = Field(10_000, ge=1, description="The most results that one query may ask for.")
    max_results: int = Field(100_000, ge=1, description="The most results of all queries of one request together.")
    max_body_bytes: int = Field(64_000_000, ge=1000, description="The largest batch of queries, or photo.")
    max_changes: int = Field(256, ge=1, description="Changes that may wait to be written; those above are refused.")
