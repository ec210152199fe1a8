"""The page about settings, from the services' settings classes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AliasChoices, SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from diptych.reference.markdown import code, document, table
from services.demo.settings import DemoSettings
from services.encoder.settings import EncoderSettings
from services.gateway.settings import GatewaySettings
from services.index.settings import IndexSettings
from shared.settings import ServiceSettings

SERVICES: dict[str, type[ServiceSettings]] = {
    "gateway": GatewaySettings,
    "encoder": EncoderSettings,
    "index": IndexSettings,
    "demo": DemoSettings,
}
_TOP = """
Services read environment variables when they start, and for those that are not set the files of the same names in the
folder `DIPTYCH_SECRETS_DIR`, where it is set. An empty one counts as unset. A value that
is not valid stops the service with a sentence that names the variable; it never shows a secret's value. Lists are JSON,
as in `DIPTYCH_GATEWAY_CORS_ORIGINS='["https://photos.example"]'`.

The [command line](commands.md) reads `DIPTYCH_STORE`, `DIPTYCH_GATEWAY`, `DIPTYCH_GATEWAY_API_KEYS` and
`DIPTYCH_REDIS_URL` in place of options that are not given, and `DIPTYCH_API_KEY`, as the Python client does. What
`docker-compose.yml` takes is under [Deploy](../how-to/deploy.md).
"""
_NAMES: dict[Any, str] = {
    bool: "`true` or `false`",
    int: "whole number",
    float: "number",
    str: "text",
    Path: "path",
    SecretStr: "secret",
}
_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def page() -> str:
    shared: dict[str, list[str]] = {}
    sections = []
    for service, settings in SERVICES.items():
        rows = []
        for name, field in settings.model_fields.items():
            variables = list(_variables(settings, name, field))
            row = [", or ".join(map(code, variables)), _type(field), _default(field), _meaning(settings, name)]
            if any(variable.startswith(_prefix(settings)) for variable in variables):
                rows.append(row)
            else:
                shared[name] = row
        sections += [f"## {service.capitalize()}", _table(rows)]
    return document("Settings", _TOP, "## Several services", _table(shared.values()), *sections)


def _table(rows: Any) -> str:
    return table(["variable", "type", "default", "meaning"], rows)


def _prefix(settings: type[ServiceSettings]) -> str:
    return settings.model_config.get("env_prefix", "")


def _variables(settings: type[ServiceSettings], name: str, field: FieldInfo) -> Iterator[str]:
    """The environment variables that a field is read from, the one that wins first."""
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        yield from (str(choice) for choice in alias.choices if str(choice).isupper())
    else:
        yield _prefix(settings) + name.upper()


def _meaning(settings: type[ServiceSettings], name: str) -> str:
    """A field's description, or that of the field which it overrides."""
    fields = [
        base.model_fields[name]
        for base in settings.__mro__
        if issubclass(base, BaseSettings) and name in base.model_fields
    ]
    return next((field.description for field in fields if field.description), "")


def _type(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {_plain(getattr(mark, key))}"
        for mark in field.metadata
        for key, sign in _SIGNS.items()
        if getattr(mark, key, None) is not None
    ]
    return ", ".join([_named(field.annotation), *bounds])


def _named(kind: Any) -> str:
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _named(inside[0])
    if origin in (Union, UnionType):
        return _named(next(one for one in inside if one is not NoneType))
    if origin is Literal:
        return ", ".join(map(code, inside))
    if origin is tuple:
        return f"JSON list of {_named(inside[0])}s"
    return _NAMES.get(kind) or code(kind.__name__)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "unset"
    if isinstance(value, tuple):
        return code(json.dumps(value))
    return code(_plain(value))


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
