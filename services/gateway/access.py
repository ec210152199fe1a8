"""Who may ask for what: API keys with scopes and rates, from a file that is followed.

A route declares what it needs, ``dependencies=[needs("write")]``, on itself or on its router. Without a file of keys
everybody may do everything.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from structlog.contextvars import bind_contextvars

from services.gateway.rates import Rates
from shared.keys import ApiKey, KeyFileError, Scope, read_keys
from shared.problems import Problem
from shared.telemetry import log

_WHERE_NEEDED = "A key made by `diptych keys create`; needed where the gateway was given keys, and ignored elsewhere."
_BEARER = HTTPBearer(auto_error=False, description=_WHERE_NEEDED)
_HEADER = APIKeyHeader(name="X-API-Key", auto_error=False, description="The same, for who cannot set Authorization.")

REFUSALS = {
    "unauthenticated": "no API key came with the request: send yours as `Authorization: Bearer KEY`",
    "forbidden": "key 'web' may read, and this needs write: ask for a key that may",
    "rate_limited": "key 'web' may ask 60 times a minute: ask again in 3 s",
}


class Access:
    """The keys in ``path``, looked at every ``poll_seconds``. Raises :class:`KeyFileError` when they cannot be read at
    first; later ones that cannot be read are logged, and those before go on being good."""

    def __init__(self, path: Path | None, rates: Rates, *, poll_seconds: float) -> None:
        self._path = path
        self._rates = rates
        self._poll_seconds = poll_seconds
        self._keys = None if path is None else read_keys(path)

    async def watch(self) -> None:
        """Follow the file, until cancelled."""
        refused = ""
        while self._path is not None:
            await asyncio.sleep(self._poll_seconds)
            try:
                keys = await asyncio.to_thread(read_keys, self._path)
            except KeyFileError as error:
                if str(error) != refused:
                    log.error("keys refused", error=str(error))
                refused = str(error)
                continue
            refused = ""
            if keys != self._keys:
                self._keys = keys
                log.info("keys", names=[key.name for key in keys.keys])

    async def check(self, request: Request, scope: Scope) -> None:
        """Raises :class:`Problem` unless the caller may. Asking more than once for a request counts it once."""
        if self._keys is None:
            return
        caller: ApiKey | None = getattr(request.state, "caller", None)
        if caller is None:
            caller = request.state.caller = await self._admit(request)
        if scope not in caller.scopes:
            raise Problem(
                "forbidden",
                f"key {caller.name!r} may {' and '.join(caller.scopes)}, and this needs {scope}: ask for a key that "
                f"may (diptych keys create NAME --scope {scope})",
                challenge=f'Bearer error="insufficient_scope", scope="{scope}"',
            )

    async def _admit(self, request: Request) -> ApiKey:
        shown = _shown(request)
        if not shown:
            raise Problem(
                "unauthenticated",
                "no API key came with the request: send yours as `Authorization: Bearer KEY` or `X-API-Key: KEY` (the "
                "client, the command line and the demo take it from DIPTYCH_API_KEY)",
                challenge="Bearer",
            )
        assert self._keys is not None
        caller = self._keys.find(shown)
        if caller is None:
            raise Problem(
                "unauthenticated",
                "the API key is not known here: it was mistyped or revoked, or is another gateway's; ask for a new one",
                challenge='Bearer error="invalid_token"',
            )
        bind_contextvars(caller=caller.name)
        if caller.requests_per_minute is not None:
            seconds = await self._rates.wait(caller.sha256, caller.requests_per_minute)
            if seconds:
                raise Problem(
                    "rate-limited",
                    f"key {caller.name!r} may ask {caller.requests_per_minute} times a minute: "
                    f"ask again in {seconds} s",
                    retry_after=seconds,
                )
        return caller


class Needs:
    """A dependency of a route. Its parameters but the first are there for the interface's description."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def check(self, request: Request) -> None:
        access: Access = request.app.state.gateway.access
        await access.check(request, self._scope)

    async def __call__(
        self,
        request: Request,
        _bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
        _header: Annotated[str | None, Depends(_HEADER)],
    ) -> None:
        await self.check(request)


def needs(scope: Scope) -> Any:
    """For ``dependencies=[needs("read")]``: only callers whose key has the scope are let in."""
    return Depends(Needs(scope))


def _shown(request: Request) -> str:
    kind, _, key = request.headers.get("Authorization", "").partition(" ")
    return key.strip() if kind.lower() == "bearer" else request.headers.get("X-API-Key", "").strip()
