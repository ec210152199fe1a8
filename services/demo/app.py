"""The demo service: the page, mounted into the shell that every service wears. It calls only the gateway."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI

from services.demo.language import LanguageMiddleware
from services.demo.search import Search
from services.demo.settings import DemoSettings
from services.demo.thumbnails import Thumbnails
from services.demo.words import LANGUAGES
from shared.client import AsyncClient
from shared.http import create_app, run
from shared.telemetry import ASGIApp, Message, Receive, Scope, Send

_FORM_OVERHEAD = 64 * 1024
# The browser is held to what the page promises: nothing is fetched from, or sent to, anywhere but here.
_POLICY = (
    b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    b"img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:"
)


class ContentPolicyMiddleware:
    """Adds the Content-Security-Policy to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (b"content-security-policy", _POLICY)]
            await send(message)

        await self._app(scope, receive, send_with_policy)


async def _no_problems() -> list[str]:
    # A gateway that is away does not make the demo unready: the page is what tells people about it.
    return []


def create(settings: DemoSettings) -> FastAPI:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    import gradio as gr
    from gradio.utils import get_upload_folder

    from services.demo import page

    key = settings.api_key
    client = AsyncClient(
        settings.gateway_url, timeout=settings.timeout_seconds, api_key=key.get_secret_value() if key else None
    )
    thumbnails = Thumbnails(client, Path(get_upload_folder()) / "thumbnails")

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with client:
            yield

    app = create_app(
        "demo",
        _no_problems,
        max_body_bytes=settings.max_upload_bytes + _FORM_OVERHEAD,
        lifespan=lifespan,
        openapi_url=None,
    )
    app.add_middleware(ContentPolicyMiddleware)
    app.add_middleware(LanguageMiddleware)
    for words in reversed(LANGUAGES):  # the page at / answers for every path that no other does
        blocks = page.build(
            Search(client, thumbnails, words), settings.examples, settings.max_results, adding=settings.adding
        )
        app = gr.mount_gradio_app(
            app,
            blocks,
            path=words.path,
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            max_file_size=settings.max_upload_bytes,
            theme=page.theme(),
            css=page.CSS,
            head=page.HEAD,
        )
    return app


def main() -> None:
    settings = DemoSettings()
    run("demo", create(settings), settings)
