"""Errors a caller can act on, as RFC 9457 problem details.

Every error leaves a service as ``application/problem+json`` with ``type``, ``title``, ``status``, ``detail`` and the
request's id. :data:`CATALOGUE` is the whole list of types.
"""

from __future__ import annotations

from typing import Any

CATALOGUE: dict[str, tuple[int, str]] = {
    "invalid-request": (422, "The request is not valid"),
    "unauthenticated": (401, "Who is asking is not known"),
    "forbidden": (403, "The caller may not do this"),
    "rate-limited": (429, "The caller asks too often"),
    "invalid-image": (415, "The upload is not an image that can be read"),
    "image-too-large": (413, "The image is too large"),
    "body-too-large": (413, "The request body is too large"),
    "not-found": (404, "There is no such thing here"),
    "method-not-allowed": (405, "This address does not take this method"),
    "unknown-version": (409, "This version is not loaded here"),
    "model-index-mismatch": (503, "The model and the index do not belong together"),
    "not-ready": (503, "The service is not ready"),
    "storage-full": (507, "There is no room to store this"),
    "read-only": (503, "Nothing can be stored here"),
    "overloaded": (503, "Too many requests are waiting"),
    "neighbour-unavailable": (503, "A service this one depends on is not answering"),
    "no-reranker": (409, "The model in use has no reranker"),
    "internal-error": (500, "Something went wrong here"),
}

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):
    """Raise to answer with a problem document. ``slug`` is a key of :data:`CATALOGUE`.

    ``detail`` says what was wrong, with which value, and what to do. ``extra`` fields join the document;
    ``retry_after`` (seconds) becomes the header of that name, ``challenge`` becomes WWW-Authenticate.
    """

    def __init__(
        self, slug: str, detail: str, *, retry_after: int | None = None, challenge: str | None = None, **extra: Any
    ) -> None:
        super().__init__(detail)
        self.slug = slug
        self.status, self.title = CATALOGUE[slug]
        self.detail = detail
        self.retry_after = retry_after
        self.challenge = challenge
        self.extra = extra

    @property
    def headers(self) -> dict[str, str]:
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return headers if self.challenge is None else {**headers, "WWW-Authenticate": self.challenge}

    def document(self, request_id: str | None = None) -> dict[str, Any]:
        document: dict[str, Any] = {
            "type": f"urn:diptych:problem:{self.slug}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            **self.extra,
        }
        if request_id is not None:
            document["request_id"] = request_id
        return document
