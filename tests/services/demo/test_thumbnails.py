"""Against a gateway of the real HTTP kind that hands out one photo, and counts how often it is asked."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from services.demo.thumbnails import Thumbnails
from shared.client import AsyncClient, DiptychError

PHOTO = b"\xff\xd8 the bytes of a thumbnail"


class OnePhoto(BaseHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append(self.path)
        there = self.path.startswith("/images/cafe/thumbnail")
        body = PHOTO if there else b'{"title": "Not there", "detail": "no such photo"}'
        self.send_response(200 if there else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    OnePhoto.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), OnePhoto) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


async def test_a_photo_is_fetched_once_however_many_ask(url: str, tmp_path: Path) -> None:
    async with AsyncClient(url) as client:
        thumbnails = Thumbnails(client, tmp_path / "deep")
        paths = await asyncio.gather(*(thumbnails.get("cafe") for _ in range(5)))
        assert {path.read_bytes() for path in paths if path} == {PHOTO}
        OnePhoto.asked.clear()
        assert await thumbnails.get("cafe") == paths[0]
        assert OnePhoto.asked == []
        assert [path.name for path in (tmp_path / "deep").iterdir()] == ["cafe.jpg"]


async def test_a_photo_in_use_counts_as_new(url: str, tmp_path: Path) -> None:
    async with AsyncClient(url) as client:
        thumbnails = Thumbnails(client, tmp_path)
        path = await thumbnails.get("cafe")
        assert path is not None
        os.utime(path, (0, 0))
        await thumbnails.get("cafe")
        assert path.stat().st_mtime > 0


async def test_a_photo_that_is_gone_is_none_and_no_name_leads_out_of_the_folder(url: str, tmp_path: Path) -> None:
    folder = tmp_path / "thumbnails"
    async with AsyncClient(url) as client:
        thumbnails = Thumbnails(client, folder)
        assert await thumbnails.get("beef") is None
        (tmp_path / "secret.jpg").touch()
        assert await thumbnails.get("../secret") is None


async def test_a_folder_that_cannot_be_written_is_said(url: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    async with AsyncClient(url) as client:
        with pytest.raises(DiptychError, match=r"file/folder cannot be written to"):
            await Thumbnails(client, tmp_path / "file" / "folder").get("cafe")
