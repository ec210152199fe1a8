"""What every service's settings share. Each service derives its own class and prefix; only its entry point builds one
from the environment."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)


class _FilledSecrets(SecretsSettingsSource):
    def __call__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__call__().items() if value != ""}


class _Settings(BaseSettings):
    """Each can be a file instead of a variable, with the same name in the folder ``DIPTYCH_SECRETS_DIR``: what an
    environment holds can be seen by whoever looks at the process or container. Empty ones count as unset."""

    # An error does not show what was given: among it are secrets.
    model_config = SettingsConfigDict(
        extra="ignore", frozen=True, populate_by_name=True, env_ignore_empty=True, hide_input_in_errors=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        folder = os.environ.get("DIPTYCH_SECRETS_DIR")
        if not folder:
            return init_settings, env_settings
        if not Path(folder).is_dir():
            raise ValueError(
                f"DIPTYCH_SECRETS_DIR is {folder!r}, which is no folder: mount the secrets there, or unset it"
            )
        return init_settings, env_settings, _FilledSecrets(settings_cls, secrets_dir=folder)


class MilvusSettings(_Settings):
    """How to reach the Milvus that an index is in."""

    milvus_uri: str | None = Field(
        None,
        validation_alias=AliasChoices("DIPTYCH_MILVUS_URI", "milvus_uri"),
        description="Where an index's Milvus is from here, when not where its manifest says.",
    )
    milvus_token: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("DIPTYCH_MILVUS_TOKEN", "milvus_token"),
        description="What Milvus asks for: an API key, or USER:PASSWORD.",
    )


class ServiceSettings(_Settings):
    """Read from ``DIPTYCH_<SERVICE>_*``; what services share from plain ``DIPTYCH_*``."""

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    port: int = Field(ge=0, le=65535, description="Port to listen on.")
    drain_seconds: float = Field(10.0, ge=0, description="How long a stop waits for requests in flight.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info",
        validation_alias=AliasChoices("DIPTYCH_LOG_LEVEL", "log_level"),
        description="What is logged: this and graver.",
    )
    log_format: Literal["json", "console"] = Field(
        "json",
        validation_alias=AliasChoices("DIPTYCH_LOG_FORMAT", "log_format"),
        description="One JSON object a line for machines, console for people.",
    )
    internal_token: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("DIPTYCH_INTERNAL_TOKEN", "internal_token"),
        description="What the gateway shows to encoder and index, the same for all; they ask for none when unset.",
    )

    @field_validator("internal_token")
    @classmethod
    def _fits_into_a_header(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and not re.fullmatch(r"[!-~]+", token.get_secret_value()):
            raise ValueError("it goes into a header, so it must be printable ASCII without blanks")
        return token


class StoreSettings(ServiceSettings):
    """For the services that read artifacts (encoder and index)."""

    store: Path = Field(
        Path(".diptych/store"),
        validation_alias=AliasChoices("DIPTYCH_STORE", "store"),
        description="The artifact store that holds current.json.",
    )
    poll_seconds: float = Field(1.0, gt=0, description="How often current.json is looked at.")
    retire_seconds: float = Field(30.0, ge=0, description="How long a replaced version goes on answering.")
