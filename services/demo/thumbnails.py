"""Thumbnails as files that the page's server can hand out."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path

from shared.client import AsyncClient, DiptychError

SIZE = 512


class Thumbnails:
    """Files in ``folder``, fetched from the gateway once and for all: a photo's id stands for its content.

    ``folder`` is gradio's own for what it hands out, from where it also deletes what was not used for long.
    """

    def __init__(self, client: AsyncClient, folder: Path) -> None:
        self._client = client
        self._folder = folder

    async def get(self, image_id: str) -> Path | None:
        """The file of a photo's thumbnail, None when the photo is there no more. Raises :class:`DiptychError`."""
        path = self._folder / Path(f"{image_id}.jpg").name
        try:
            os.utime(path)  # still in use
        except OSError:
            try:
                data = await self._client.thumbnail(image_id, SIZE)
            except DiptychError as error:
                if error.status == 404:
                    return None
                raise
            self._write(path, data)
        return path

    def _write(self, path: Path, data: bytes) -> None:
        """In one step, so that nobody is handed half a file."""
        beside = path.with_name(f"{path.stem}.{uuid.uuid4().hex}.part")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(data)
            beside.replace(path)
        except OSError as error:
            raise DiptychError(
                None, "A picture cannot be shown", f"{self._folder} cannot be written to: {error}; make room there"
            ) from error
        finally:
            with suppress(OSError):
                beside.unlink()
