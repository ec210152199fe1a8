"""Errors a caller can act on, as RFC 9457 problem details.

Every error leaves a service as ``application/problem+json`` with ``type``, ``title``, ``status``, ``detail`` and the
request's id. :data:`CATALOGUE` is the whole list of types.
"""

from __future__ import annotations

from typing import Any, NamedTuple

TYPE_PREFIX = "urn:diptych:problem:"


class Kind(NamedTuple):
    """``when`` it comes and what the caller can do (``remedy``), in sentences for ``docs/errors.md``."""

    status: int
    title: str
    when: str
    remedy: str


CATALOGUE: dict[str, Kind] = {
    "invalid-request": Kind(
        422,
        "The request is not valid",
        "A field is missing, of the wrong kind or over a limit (`errors` lists them), or the body cannot be parsed.",
        "Correct what `detail` names; the same request will be refused again.",
    ),
    "unauthenticated": Kind(
        401,
        "Who is asking is not known",
        "The gateway was given API keys and none came, or one that it does not know. From encoder or index: the "
        "internal token is missing or another.",
        "Send a key that is good here: `Authorization: Bearer KEY`.",
    ),
    "forbidden": Kind(
        403,
        "The caller may not do this",
        "The key is good, but lacks the scope that the route needs.",
        "Ask for a key with that scope.",
    ),
    "rate-limited": Kind(
        429,
        "The caller asks too often",
        "The key has had its requests of this minute.",
        "Wait as many seconds as `Retry-After` says.",
    ),
    "invalid-image": Kind(
        415,
        "The upload is not an image that can be read",
        "The file is empty, damaged, cut off, or of a format that is not read here (SVG and PDF among them).",
        "Send a whole JPEG, PNG, WebP, GIF, BMP or TIFF.",
    ),
    "image-too-large": Kind(
        413,
        "The image is too large",
        "The picture's header claims more pixels than are decoded (`DIPTYCH_ENCODER_MAX_PIXELS`).",
        "Send a smaller copy; models look at a few hundred pixels a side.",
    ),
    "body-too-large": Kind(
        413,
        "The request body is too large",
        "The body has more bytes than are read (`DIPTYCH_GATEWAY_MAX_UPLOAD_BYTES`).",
        "Send less at a time.",
    ),
    "not-found": Kind(
        404,
        "There is no such thing here",
        "No route has this address, or no photo this id; or the file of a photo is gone.",
        "Take addresses and ids from answers.",
    ),
    "method-not-allowed": Kind(
        405,
        "This address does not take this method",
        "The route exists for other methods, which `Allow` names.",
        "Use one of those.",
    ),
    "unknown-version": Kind(
        409,
        "This version is not loaded here",
        "Encoder or index was asked for a version that it does not hold. The gateway looks at both again by itself.",
        "Ask for one that `/status` lists, or for none.",
    ),
    "model-index-mismatch": Kind(
        503,
        "The model and the index do not belong together",
        "No loaded index was built by a loaded model.",
        "Build an index with that model (`diptych index build`), or go back (`diptych artifacts rollback`).",
    ),
    "not-ready": Kind(
        503,
        "The service is not ready",
        "Nothing is loaded yet, nothing was published, versions are just changing, or the service is stopping.",
        "Ask again after `Retry-After`; when it stays, `/health/ready` says what is missing.",
    ),
    "storage-full": Kind(
        507,
        "There is no room to store this",
        "The disk of the index service is full. Nothing was changed, and what was stored before is being served.",
        "Make room, then send it again.",
    ),
    "read-only": Kind(
        503,
        "Nothing can be stored here",
        "The index service cannot write to its library: another process holds it, or the folder is not writable.",
        "Stop the other process, or correct the folder's permissions.",
    ),
    "overloaded": Kind(
        503,
        "Too many requests are waiting",
        "A bounded queue is full. Nothing of the request was done.",
        "Ask again after `Retry-After`, with some jitter; when it stays, add replicas.",
    ),
    "deadline-exceeded": Kind(
        503,
        "The caller's time was up",
        "The encoder had not begun with a request when the time was over that its caller waits "
        "(`X-Diptych-Deadline-Ms`). It only says so to the gateway, which is not waiting any more.",
        "Nothing was computed; ask again, with more time.",
    ),
    "neighbour-unavailable": Kind(
        503,
        "A service this one depends on is not answering",
        "Encoder or index refused the connection, broke it, answered nonsense, or did not answer in time. After three "
        "time-outs in a row requests are refused at once, but for one every two seconds that tries again. From the "
        "index: the Milvus that it is in does not answer; a change is stored then, and can be searched later.",
        "Ask again after `Retry-After`; when it stays, start the service that `detail` names, or read its log.",
    ),
    "no-reranker": Kind(
        409,
        "The model in use has no reranker",
        "The encoder was asked to rerank by a model without one. The gateway answers `cross` searches by the dual "
        "encoder then, and marks them `degraded`.",
        "Ask for `model_type=dual`, or publish a model with a reranker.",
    ),
    "internal-error": Kind(
        500,
        "Something went wrong here",
        "A fault of the service. The log has it under the answer's `request_id`.",
        "Report it, with that id.",
    ),
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
        self.status, self.title = CATALOGUE[slug][:2]
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
            "type": TYPE_PREFIX + self.slug,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            **self.extra,
        }
        if request_id is not None:
            document["request_id"] = request_id
        return document


def page() -> str:
    """``docs/errors.md``."""
    parts = [
        f"""# Errors

Written by `make errors` from [`shared/problems.py`](../shared/problems.py).

Every error of every service is a [problem document](https://www.rfc-editor.org/rfc/rfc9457), `{MEDIA_TYPE}`. Its `type`
is `{TYPE_PREFIX}` and one of the names below; names are never renamed or given another meaning. `detail` says what was
wrong, with which value, and what to do; `request_id` is the id under which all services logged the request. Some kinds
have fields of their own, such as `errors`. Statuses 429 and 503 come with `Retry-After` where asking again helps.
"""
    ]
    for slug, kind in sorted(CATALOGUE.items(), key=lambda entry: (entry[1].status, entry[0])):
        parts.append(f"## {slug}\n\n**{kind.status}, {kind.title}.** {kind.when}\n\n{kind.remedy}\n")
    return "\n".join(parts)
