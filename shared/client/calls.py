"""A request to the gateway, how its answer is read, and when it is asked again; nothing here sends anything."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import httpx
from pydantic import ValidationError

T = TypeVar("T")

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0


class DiptychError(Exception):
    """A request that was not answered. ``detail`` says what was wrong and what to do.

    ``status`` is the HTTP status, None when no answer came at all; ``request_id`` is the id under which the services
    logged the request.
    """

    def __init__(self, status: int | None, title: str, detail: str, request_id: str | None = None) -> None:
        super().__init__(f"{title}: {detail}")
        self.status = status
        self.title = title
        self.detail = detail
        self.request_id = request_id


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request, and how its answer is read. ``answers`` are the statuses that are an answer and not an error."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    options: dict[str, Any] = field(default_factory=dict)
    answers: tuple[int, ...] = (200,)

    def pause(self, outcome: httpx.Response | httpx.RequestError, attempt: int) -> float | None:
        """Seconds to wait before asking again, None when the outcome stands.

        Every call is safe to repeat: a search changes nothing, and a photo that is put in twice is there once. A
        connection that was refused or broke is tried again, and so is a 503 that says Retry-After, and a 429 that asks
        for little. A time-out is not: whoever waited that long should hear of it.
        """
        jitter = random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing
        if isinstance(outcome, httpx.NetworkError | httpx.RemoteProtocolError):
            return min(_FIRST_PAUSE * 2.0**attempt, _LONGEST_PAUSE) * jitter
        if isinstance(outcome, httpx.Response) and outcome.status_code in {429, 503} - set(self.answers):
            wanted = outcome.headers.get("Retry-After", "")
            if wanted.isdigit() and (outcome.status_code == 503 or int(wanted) <= _LONGEST_PAUSE):
                return min(float(wanted), _LONGEST_PAUSE) + _FIRST_PAUSE * jitter
        return None

    def result(self, outcome: httpx.Response | httpx.RequestError, base_url: str) -> T:
        """The answer, or :class:`DiptychError`."""
        answer = self.answered(outcome, base_url)
        try:
            return self.read(answer)
        except ValidationError as error:
            raise not_diptych(answer.status_code, base_url, error) from error

    def answered(self, outcome: httpx.Response | httpx.RequestError, base_url: str) -> httpx.Response:
        """The response of an outcome that is an answer. Raises :class:`DiptychError`."""
        if isinstance(outcome, httpx.RequestError):
            raise unreached(outcome, base_url) from outcome
        if outcome.status_code not in self.answers:
            raise _error(outcome)
        return outcome


def unreached(error: httpx.RequestError, base_url: str) -> DiptychError:
    if isinstance(error, httpx.TimeoutException):
        return DiptychError(
            None, "No answer in time", f"the gateway at {base_url} took too long; allow more with timeout="
        )
    return DiptychError(
        None,
        "The gateway cannot be reached",
        f"{base_url} does not answer ({error}); start it with `diptych up`, or give the right address",
    )


def not_diptych(status: int, base_url: str, error: ValidationError) -> DiptychError:
    return DiptychError(status, "Not an answer of Diptych", f"is {base_url} a Diptych gateway? {error}")


def _error(response: httpx.Response) -> DiptychError:
    try:
        document = response.json()
        title, detail = str(document["title"]), str(document["detail"])
    except (ValueError, KeyError, TypeError):
        title = "Not an answer of Diptych"
        detail = f"{response.url} answered {response.status_code}: {response.text[:200]}"
    return DiptychError(response.status_code, title, detail, response.headers.get("X-Request-ID"))


def key_header(api_key: str | None) -> dict[str, str]:
    """The header that says who asks, with that key or the environment's; none without either. Raises
    :class:`DiptychError`, in which the key is not shown, for one that cannot be sent."""
    key = (os.environ.get("DIPTYCH_API_KEY", "") if api_key is None else api_key).strip()
    if not re.fullmatch(r"[!-~]*", key):
        raise DiptychError(
            None, "The API key cannot be sent", "it has blanks or letters that no key has; correct DIPTYCH_API_KEY"
        )
    return {"Authorization": f"Bearer {key}"} if key else {}
