"""Getting Flickr8k from its public mirror: resumable, checked, and unpacked only when it is sound."""

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from training.data.captioned import DataError
from training.data.unpack import require_space, unpack
from training.data.verify import Report, verify

__all__ = ["ARCHIVES", "Archive", "Report", "fetch", "verify"]


@dataclass(frozen=True)
class Archive:
    """A zip file to download: `folder` is what it becomes, `digests` maps hashlib names to expected hex digests."""

    url: str
    folder: str
    size: int
    digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


# The original archives as mirrored in a GitHub release. Nobody publishes their sha256. Their sizes and MD5 sums are
# public, the latter as pinned by two unrelated projects (the R package torchvision and pytorch-cpp): enough against
# damage and a changed mirror, not against a forger. The sha256 of the first sound download is written beside it, and
# a later download into the same folder must match that.
_MIRROR = "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k"
ARCHIVES = (
    Archive(f"{_MIRROR}/Flickr8k_text.zip", "Flickr8k_text", 2_340_801, {"md5": "bf6c1abcb8e4a833b7f922104de18627"}),
    Archive(
        f"{_MIRROR}/Flickr8k_Dataset.zip",
        "Flicker8k_Dataset",
        1_115_419_746,
        {"md5": "f18a1e2920de5bd84dae7cf08ec78978"},
    ),
)


def fetch(
    root: Path,
    console: Console,
    *,
    archives: Sequence[Archive] = ARCHIVES,
    attempts: int = 4,
    pause_seconds: float = 2.0,
) -> Report:
    """Download and unpack Flickr8k into `root`, and verify it; where `root` holds a copy, only verify that.

    A download that breaks off goes on where it stopped, within `attempts` tries (`pause_seconds` apart, doubling) and
    when called again. An archive that was copied to `root` by hand is used like a downloaded one.
    Raises DataError without a network, for an answer that is not the archive, for a wrong checksum, for an unsafe or
    damaged archive, and for too small a disk.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot use the folder {root}: {error.strerror}") from error
    report = verify(root, console)
    if report.state != "absent":
        console.print(f"{root} holds a copy of Flickr8k: nothing to download.", highlight=False)
        return report
    for archive in archives:
        folder = root / archive.folder
        if folder.is_dir() and any(folder.iterdir()):
            continue
        path = root / archive.name
        if not path.exists():
            part = path.with_name(path.name + ".part")
            _download(archive, part, console, attempts, pause_seconds)
            if fault := _fault(archive, part):
                part.unlink()
                raise DataError(f"the download is damaged and was deleted ({fault}): run again to download it afresh")
            part.rename(path)
        elif fault := _fault(archive, path):
            raise DataError(f"this is not the original archive ({fault}): replace it, or delete it to download it")
        unpack(path, folder, console)
        path.unlink()
    return verify(root, console)


def _download(archive: Archive, part: Path, console: Console, attempts: int, pause_seconds: float) -> None:
    require_space(part.parent, 2 * archive.size - _size(part), f"to download and unpack {archive.name}")
    host = urlsplit(archive.url).hostname
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with (
        httpx.Client(follow_redirects=True, timeout=30.0) as client,
        Progress(*columns, TimeRemainingColumn(), console=console) as progress,
    ):
        task = progress.add_task(archive.name, total=archive.size)
        for attempt in range(1, attempts + 1):
            try:
                for size in _resume(client, archive, part):
                    progress.update(task, completed=size)
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
                raise DataError(
                    f"cannot reach {host} ({error}). Without internet, copy the data set (its photos and "
                    f"Flickr8k_text/), or {archive.name}, to {part.parent} and run again"
                ) from error
            except httpx.RequestError as error:
                if attempt == attempts:
                    raise DataError(
                        f"the connection to {host} broke off ({str(error) or type(error).__name__}) at "
                        f"{_size(part):,} of {archive.size:,} bytes, which are kept: run again to go on from there"
                    ) from error
                time.sleep(pause_seconds * 2 ** (attempt - 1))
            except OSError as error:
                raise DataError(
                    f"cannot write {part}: {error.strerror}; make room there and run again to go on"
                ) from error
            else:
                return


def _resume(client: httpx.Client, archive: Archive, part: Path) -> Iterator[int]:
    """Fetch what `part` lacks, yielding its size as it grows."""
    have = _size(part)
    if have == archive.size:
        return
    if have > archive.size:
        have = 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with client.stream("GET", archive.url, headers=headers) as response:
        if response.status_code == httpx.codes.OK:  # from a server that knows no ranges: all of it again
            have = 0
        elif response.status_code != httpx.codes.PARTIAL_CONTENT:
            raise DataError(f"{archive.url} answered {response.status_code} {response.reason_phrase}: try again later")
        announced = int(response.headers.get("Content-Length", archive.size - have))
        if have + announced != archive.size:
            raise DataError(
                f"{archive.url} is {have + announced:,} bytes, not {archive.size:,}: the mirror no longer holds the "
                f"original; get {archive.name} elsewhere and copy it to {part.parent}"
            )
        with part.open("ab" if have else "wb") as file:
            for chunk in response.iter_raw():  # as it arrives, so that a cut loses nothing
                file.write(chunk)
                have += len(chunk)
                yield have


def _fault(archive: Archive, path: Path) -> str | None:
    """What is wrong with a downloaded archive, or None; then its sha256 is on record beside it."""
    if (size := _size(path)) != archive.size:
        return f"{path} is {size:,} bytes, not {archive.size:,}"
    record = path.parent / f"{archive.name}.sha256"
    expected = dict(archive.digests)
    if record.exists():
        expected.setdefault("sha256", record.read_text(encoding="ascii", errors="replace").split(" ")[0])
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in {"sha256", *expected}}
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            for digest in hashes.values():
                digest.update(chunk)
    for name, wanted in expected.items():
        if (found := hashes[name].hexdigest()) != wanted:
            return f"{path} has {name} {found}, not {wanted}"
    record.write_text(f"{hashes['sha256'].hexdigest()}  {archive.name}\n", encoding="ascii")  # as sha256sum reads it
    return None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
