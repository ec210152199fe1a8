"""Many photos, cut into requests of bounded size.

HTTP/1.1 clients read an answer when they have sent the whole request. So a request is only as long as is good for
memory and for what has to be sent again when it breaks off.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from pydantic import ValidationError

from shared.client.calls import Call, not_diptych
from shared.schemas_v1 import BulkResult

_LINES = 64
_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True)
class Upload:
    """A photo's file, or its bytes, and what is said of it. Without an ``id`` its content names it."""

    image: bytes | Path
    id: str | None = None
    captions: Sequence[str] = ()
    tags: Sequence[str] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None

    def line(self) -> bytes:
        """Raises OSError for a file that cannot be read."""
        name, data = (
            (self.image.name, self.image.read_bytes()) if isinstance(self.image, Path) else ("image", self.image)
        )
        said = {
            "image": base64.b64encode(data).decode("ascii"),
            "name": self.name or name,
            "captions": list(self.captions),
            "tags": list(self.tags),
            "metadata": dict(self.metadata),
            **({} if self.id is None else {"id": self.id}),
        }
        return json.dumps(said).encode() + b"\n"


class Request:
    """Some uploads, of which the ``missing`` have no result yet: lines by their number among all uploads."""

    def __init__(self, missing: dict[int, bytes]) -> None:
        self.missing = missing
        self._sent: list[int] = []

    def call(self) -> Call[None]:
        self._sent = list(self.missing)
        body = b"".join(self.missing.values())
        headers = {"Content-Type": "application/x-ndjson"}
        return Call("POST", "/v1/images:bulk", lambda _: None, {"content": body, "headers": headers})

    def result(self, line: str, base_url: str) -> BulkResult:
        """What a line of the answer says, numbered among all uploads. Raises :class:`DiptychError`."""
        try:
            found = BulkResult.model_validate_json(line)
        except ValidationError as error:
            raise not_diptych(200, base_url, error) from error
        number = self._sent[found.line - 1]
        self.missing.pop(number, None)
        return found.model_copy(update={"line": number})

    def cut_off(self) -> httpx.RequestError:
        return httpx.RemoteProtocolError(f"the answer ended with {len(self.missing)} photos missing")


def requests(uploads: Iterable[Upload]) -> Iterator[Request]:
    lines: dict[int, bytes] = {}
    size = 0
    for number, upload in enumerate(uploads, 1):
        line = upload.line()
        if lines and (len(lines) == _LINES or size + len(line) > _BYTES):
            yield Request(lines)
            lines, size = {}, 0
        lines[number] = line
        size += len(line)
    if lines:
        yield Request(lines)
