"""Thumbnails as files that the page's server can hand out."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import NamedTemporaryFile

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
        except FileNotFoundError:
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
        self._folder.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=self._folder, suffix=".part", delete=False) as file:
            file.write(data)
        os.replace(file.name, path)
