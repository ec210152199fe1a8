import hashlib
import io
import re
import shutil
import socket
import zipfile
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from rich.console import Console

from training.data import flickr8k
from training.data.captioned import DataError
from training.data.download import ARCHIVES, Archive, Report, fetch

MakeCorpus = Callable[..., Path]


class Mirror(ThreadingHTTPServer):
    """A web server with byte ranges, over real sockets, that can be told to misbehave."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.ranges: list[str | None] = []  # the Range header of each request
        self.cuts: list[int] = []  # the next answers break off after so many bytes
        self.knows_ranges = True
        self.status: int | None = None

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class _Handler(BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.server.ranges.append(asked)
        content = self.server.files.get(self.path[1:])
        status = self.server.status or (404 if content is None else 200)
        if status != 200 or content is None:
            return self.send_error(status)
        start = 0
        if asked and self.server.knows_ranges:
            match = re.fullmatch(r"bytes=(\d+)-", asked)
            assert match
            start = int(match[1])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        self.wfile.write(body[: self.server.cuts.pop(0)] if self.server.cuts else body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with Mirror() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def archives(mirror: Mirror, make_corpus: MakeCorpus, tmp_path: Path) -> Sequence[Archive]:
    """A corpus in two archives like the real ones: texts without a top folder, photos in one, and macOS litter."""
    source = make_corpus({"train": ["t1.jpg", "t2.jpg"], "dev": ["d1.jpg"]}, root=tmp_path / "source")
    texts = {path.name: path.read_bytes() for path in (source / "Flickr8k_text").iterdir()}
    photos = {f"Flicker8k_Dataset/{path.name}": path.read_bytes() for path in (source / "Flicker8k_Dataset").iterdir()}
    litter = {"__MACOSX/._t1.jpg": b"litter", "__MACOSX/Flicker8k_Dataset/._t1.jpg": b"litter"}
    mirror.files = {"text.zip": zipped({**texts, **litter}), "photos.zip": zipped({**photos, **litter})}
    shutil.rmtree(source)
    return [archive(mirror, "text.zip", "Flickr8k_text"), archive(mirror, "photos.zip", "Flicker8k_Dataset")]


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def archive(mirror: Mirror, name: str, folder: str) -> Archive:
    content = mirror.files[name]
    return Archive(mirror.url(name), folder, len(content), {"sha256": hashlib.sha256(content).hexdigest()})


def get(root: Path, archives: Sequence[Archive], **options: float) -> Report:
    return fetch(
        root, Console(quiet=True), archives=archives, attempts=int(options.get("attempts", 4)), pause_seconds=0
    )


def files_under(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_downloads_unpacks_and_verifies(archives: Sequence[Archive], tmp_path: Path) -> None:
    report = get(tmp_path / "new" / "root", archives)

    assert (report.state, report.n_photos, report.n_captions) == ("partial", 3, 15)
    assert report.splits == {"train": 2, "dev": 1, "test": None}
    assert len(flickr8k.load(tmp_path / "new" / "root", "train")) == 2
    assert files_under(tmp_path / "new" / "root") == {
        "Flicker8k_Dataset/d1.jpg",
        "Flicker8k_Dataset/t1.jpg",
        "Flicker8k_Dataset/t2.jpg",
        "Flickr8k_text/Flickr8k.token.txt",
        "Flickr8k_text/Flickr_8k.devImages.txt",
        "Flickr8k_text/Flickr_8k.trainImages.txt",
        "photos.zip.sha256",
        "text.zip.sha256",
    }
    assert (tmp_path / "new/root/text.zip.sha256").read_text() == f"{archives[0].digests['sha256']}  text.zip\n"


def test_a_copy_that_is_there_is_only_verified(archives: Sequence[Archive], mirror: Mirror, tmp_path: Path) -> None:
    get(tmp_path, archives)
    requests = len(mirror.ranges)
    assert get(tmp_path, archives).state == "partial"
    assert len(mirror.ranges) == requests


def test_goes_on_after_a_cut(archives: Sequence[Archive], mirror: Mirror, tmp_path: Path) -> None:
    mirror.cuts = [1000, 7]
    assert get(tmp_path, archives).n_photos == 3
    assert mirror.ranges == [None, "bytes=1000-", "bytes=1007-", None]


def test_goes_on_when_run_again(archives: Sequence[Archive], mirror: Mirror, tmp_path: Path) -> None:
    mirror.cuts = [1000]
    with pytest.raises(DataError, match=r"broke off .* at 1,000 of [\d,]+ bytes, which are kept: run again"):
        get(tmp_path, archives, attempts=1)
    assert (tmp_path / "text.zip.part").stat().st_size == 1000
    assert get(tmp_path, archives).n_photos == 3
    assert mirror.ranges == [None, "bytes=1000-", None]


def test_begins_again_where_the_server_knows_no_ranges(
    archives: Sequence[Archive], mirror: Mirror, tmp_path: Path
) -> None:
    mirror.knows_ranges = False
    mirror.cuts = [1000]
    assert get(tmp_path, archives).n_photos == 3


@pytest.mark.parametrize("surplus", [0, 5])
def test_what_arrived_is_checked_even_if_nothing_is_left_to_download(
    archives: Sequence[Archive], mirror: Mirror, tmp_path: Path, surplus: int
) -> None:
    (tmp_path / "text.zip.part").write_bytes(mirror.files["text.zip"] + b"x" * surplus)
    assert get(tmp_path, archives).n_photos == 3
    assert len(mirror.ranges) == (2 if surplus else 1)


def test_a_wrong_checksum_is_refused(archives: Sequence[Archive], mirror: Mirror, tmp_path: Path) -> None:
    original = mirror.files["text.zip"]
    mirror.files["text.zip"] = original[:-1] + bytes([original[-1] ^ 1])
    with pytest.raises(DataError, match=rf"damaged and was deleted .* not {archives[0].digests['sha256']}"):
        get(tmp_path, archives)
    assert files_under(tmp_path) == set()


def test_a_later_download_must_match_the_first(archives: Sequence[Archive], mirror: Mirror, tmp_path: Path) -> None:
    unpinned = [Archive(archive.url, archive.folder, archive.size) for archive in archives]
    get(tmp_path, unpinned)
    shutil.rmtree(tmp_path / "Flickr8k_text")
    original = mirror.files["text.zip"]
    mirror.files["text.zip"] = original[:-1] + bytes([original[-1] ^ 1])
    with pytest.raises(DataError, match="has sha256"):
        get(tmp_path, unpinned)


def test_a_mirror_with_another_file_is_refused(archives: Sequence[Archive], mirror: Mirror, tmp_path: Path) -> None:
    mirror.files["text.zip"] += b"more"
    with pytest.raises(DataError, match="the mirror no longer holds the original"):
        get(tmp_path, archives)


@pytest.mark.parametrize("status", [404, 416, 500, 503])
def test_an_error_of_the_server_is_told(
    archives: Sequence[Archive], mirror: Mirror, tmp_path: Path, status: int
) -> None:
    mirror.status = status
    with pytest.raises(DataError, match=rf"text\.zip answered {status} .*: try again later"):
        get(tmp_path, archives)


def test_no_network_is_told(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, but nobody listens
        unreachable = Archive(f"http://127.0.0.1:{closed.getsockname()[1]}/text.zip", "Flickr8k_text", 1000)
        with pytest.raises(DataError, match=r"cannot reach 127\.0\.0\.1 .*Without internet, copy the data set"):
            get(tmp_path, [unreachable])


def test_an_archive_copied_by_hand_is_used(archives: Sequence[Archive], mirror: Mirror, tmp_path: Path) -> None:
    for name, content in mirror.files.items():
        (tmp_path / name).write_bytes(content)
    assert get(tmp_path, archives).n_photos == 3
    assert mirror.ranges == []


def test_a_wrong_archive_copied_by_hand_is_refused_and_kept(archives: Sequence[Archive], tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_bytes(b"something else")
    with pytest.raises(DataError, match="not the original archive"):
        get(tmp_path, archives)
    assert (tmp_path / "text.zip").read_bytes() == b"something else"


def test_an_archive_that_would_write_elsewhere_is_refused(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files["text.zip"] = zipped({"fine.txt": b"fine", "../../escaped.txt": b"elsewhere"})
    root = tmp_path / "a" / "b"
    with pytest.raises(DataError, match=r"not safe to unpack: its member '\.\./\.\./escaped\.txt'"):
        get(root, [archive(mirror, "text.zip", "Flickr8k_text")])
    assert files_under(tmp_path) == {"a/b/text.zip", "a/b/text.zip.sha256"}


def test_too_small_a_disk_is_told_before_the_download(mirror: Mirror, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"GB are needed to download and unpack text\.zip, but .* GB free"):
        get(tmp_path, [Archive(mirror.url("text.zip"), "Flickr8k_text", 10**17)])
    assert mirror.ranges == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device without room")
def test_a_disk_that_fills_up_is_told(archives: Sequence[Archive], tmp_path: Path) -> None:
    (tmp_path / "text.zip.part").symlink_to("/dev/full")
    with pytest.raises(DataError, match="No space left on device; make room"):
        get(tmp_path, archives)


def test_a_folder_that_cannot_be_made_is_told(archives: Sequence[Archive], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="cannot use the folder"):
        get(tmp_path / "file" / "root", archives)


def test_the_real_archives_are_pinned() -> None:
    for real in ARCHIVES:
        assert real.url.startswith("https://")
        assert {len(digest) for digest in real.digests.values()} == {32}
    assert [real.size for real in ARCHIVES] == [2_340_801, 1_115_419_746]
