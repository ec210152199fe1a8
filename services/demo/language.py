"""Which page a browser gets that asks for none in particular."""

from __future__ import annotations

from urllib.parse import parse_qs

from services.demo.words import CHINESE
from shared.telemetry import ASGIApp, Receive, Scope, Send


class LanguageMiddleware:
    """Sends a browser whose first language is Chinese from ``/`` to the Chinese page, with what it asked for in the
    address. ``?language=`` is a choice, and is kept to."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/" or scope["method"] != "GET":
            return await self._app(scope, receive, send)
        query: bytes = scope["query_string"]
        first = next((value for key, value in scope["headers"] if key == b"accept-language"), b"")
        if not first.lower().startswith(b"zh") or "language" in parse_qs(query.decode("latin-1")):
            return await self._app(scope, receive, send)
        location = CHINESE.path.encode() + b"/" + (b"?" + query if query else b"")
        headers = [(b"location", location), (b"vary", b"accept-language"), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 307, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
