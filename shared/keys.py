"""API keys at rest: a JSON file of names, hashes and scopes, which ``diptych keys`` edits and the gateway follows."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

Scope = Literal["read", "write", "admin"]

_STRICT = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class KeyFileError(ValueError):
    """The file cannot be read, or not as what it should be."""


class ApiKey(BaseModel):
    """What is kept of a key: never the key itself. ``requests_per_minute`` None means as many as it likes."""

    model_config = _STRICT

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: tuple[Scope, ...] = Field(min_length=1)
    requests_per_minute: int | None = Field(None, ge=1)


class KeyFile(BaseModel):
    model_config = _STRICT

    keys: tuple[ApiKey, ...] = ()

    @field_validator("keys")
    @classmethod
    def _are_told_apart(cls, keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
        for what in ("name", "sha256"):
            if len({getattr(key, what) for key in keys}) < len(keys):
                raise ValueError(f"two keys have the same {what}")
        return keys

    def find(self, key: str) -> ApiKey | None:
        """Whose key this is. It takes equally long for every key that is wrong, and for every one that is right."""
        digest = sha256(key)
        found = None
        for known in self.keys:
            if hmac.compare_digest(known.sha256, digest):
                found = known
        return found


def new_key() -> str:
    """A key of 256 random bits."""
    return "dk_" + secrets.token_urlsafe(32)


def sha256(key: str) -> str:
    # Not a slow hash such as Argon2: those make guessing a password dear. 256 random bits cannot be guessed however
    # cheap a guess is, and every request would have to pay.
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(path: Path) -> KeyFile:
    """Raises :class:`KeyFileError`."""
    try:
        return KeyFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read ({error.strerror}): make it with diptych keys create") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise KeyFileError(f"{path} is no file of API keys ({faults.removeprefix(': ')})") from error
