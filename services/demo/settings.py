"""What the demo can be told."""

from __future__ import annotations

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from shared.settings import ServiceSettings

EXAMPLES = (
    "a dog running on the beach",
    "children playing in the snow",
    "a person riding a bicycle",
    "a red flower",
    "a city at night",
)


class DemoSettings(ServiceSettings):
    """Read from ``DIPTYCH_DEMO_*``."""

    model_config = SettingsConfigDict(env_prefix="DIPTYCH_DEMO_")

    port: int = Field(7860, ge=0, le=65535)
    gateway_url: str = Field("http://127.0.0.1:8000", description="The only service that the demo talks to.")
    api_key: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("DIPTYCH_DEMO_API_KEY", "DIPTYCH_API_KEY", "api_key"),
        description="What the gateway knows the demo by, where it asks for keys; it lends it to whoever sees the page.",
    )
    timeout_seconds: float = Field(30.0, gt=0, description="How long an answer of the gateway is waited for.")
    max_upload_bytes: int = Field(20 * 1024 * 1024, gt=0, description="The largest picture that can be uploaded.")
    max_results: int = Field(30, ge=1, le=200, description="Where the slider for the number of results ends.")
    adding: bool = Field(
        True, description="Whether the page takes pictures into the collection; its key must allow it."
    )
    examples: tuple[str, ...] = Field(EXAMPLES, description="Queries offered on the page, as a JSON list.")
