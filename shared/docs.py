"""Swagger UI at ``/docs``, from files of our own: the page asks no other host for anything."""

from __future__ import annotations

from importlib import resources
from typing import Any

from fastapi import FastAPI, HTTPException, Response
from fastapi.openapi.docs import get_swagger_ui_html

_MEDIA_TYPES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}
# The browser is held to it.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:"
)


def serve_docs(app: FastAPI) -> None:
    """Add the page about ``app``'s routes. The package ``fastapi-swagger`` ships Swagger UI's files; FastAPI's own page
    loads them from a content delivery network. Addresses are relative, so that a proxy may serve it all under a prefix.
    """
    files = resources.files("fastapi_swagger") / "resources"

    @app.get("/docs", include_in_schema=False)
    async def page() -> Response:
        html = get_swagger_ui_html(
            openapi_url=str(app.openapi_url).lstrip("/"),
            title=app.title,
            swagger_js_url="docs/swagger-ui-bundle.js",
            swagger_css_url="docs/swagger-ui.css",
            swagger_favicon_url="docs/favicon-32x32.png",
            swagger_ui_parameters={"validatorUrl": None},  # else it shows the description to an online service
        )
        html.headers["Content-Security-Policy"] = _POLICY
        return html

    @app.get("/docs/{name}", include_in_schema=False)
    def file(name: str) -> Response:
        if name not in _MEDIA_TYPES:
            raise HTTPException(404)
        data = (files / name).read_bytes()
        return Response(data, media_type=_MEDIA_TYPES[name], headers={"Cache-Control": "public, max-age=3600"})


def takes(media_type: str) -> dict[str, Any]:
    """For ``openapi_extra`` of a route that reads its body by itself."""
    return {"requestBody": {"required": True, "content": {media_type: {"schema": _BYTES}}}}


def gives(media_type: str) -> dict[int | str, dict[str, Any]]:
    """For ``responses`` of a route that answers with bytes."""
    return {200: {"content": {media_type: {"schema": _BYTES}}}}


_BYTES = {"type": "string", "format": "binary"}
