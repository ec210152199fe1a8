"""Kills ``diptych index bulk`` in the middle, starts it again, and looks whether each photo is there once.

Photos are those of a folder, and variants of them, cropped and encoded anew, until there are as many as asked for; they
lie in a folder, in tar shards, and in a Parquet file. A tenth of them are there a second time.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from PIL import Image
from pyarrow import parquet

from shared.artifacts import ArtifactStore, Ref
from shared.collections import IndexDirectory
from tests.support.artifacts import tiny_artifact
from tests.support.engines import all_ids
from tests.support.photos import captioned_folder

ROOT = Path(__file__).parents[2]


@dataclass
class Outcome:
    """``kept_at_kill``: images that the working folder held when the driver was killed; ``missing``, ``unknown`` and
    ``unserved``: photos that are not in the index, items that are no photo, items whose bytes are not handed out."""

    photos: int = 0
    copies: int = 0
    kills: int = 0
    kept_at_kill: list[int] = field(default_factory=list)
    images: int = 0
    distinct: int = 0
    missing: int = 0
    unknown: int = 0
    unserved: int = 0
    seconds: float = 0.0

    @property
    def whole(self) -> bool:
        return not (self.missing or self.unknown or self.unserved) and self.images == self.distinct == self.photos


def variants(originals: Sequence[Path], n: int, seed: int) -> list[bytes]:
    """``n`` different photos: the originals' bytes, then crops of them."""
    rng = random.Random(seed)
    found = {hashlib.sha256(data).digest(): data for data in (path.read_bytes() for path in originals[:n])}
    while len(found) < n:
        with Image.open(rng.choice(originals)) as image:
            width, height = image.size
            left, top = rng.randrange(width // 3), rng.randrange(height // 3)
            crop = image.convert("RGB").crop((left, top, width - rng.randrange(width // 3), height))
        file = io.BytesIO()
        crop.save(file, "JPEG", quality=rng.randrange(60, 95))
        found[hashlib.sha256(file.getvalue()).digest()] = file.getvalue()
    return list(found.values())


def lay_out(photos: Sequence[bytes], folder: Path) -> list[str]:
    """Half of the photos as files, the rest in tars of up to 1,000 and a Parquet file. Returns the sources."""
    half, rest = photos[: len(photos) // 2], photos[len(photos) // 2 :]
    tars, rows = rest[: len(rest) * 3 // 5], rest[len(rest) * 3 // 5 :]
    (folder / "files").mkdir(parents=True)
    for n, data in enumerate(half):
        (folder / f"files/{n:06}.jpg").write_bytes(data)
    for start in range(0, len(tars), 1000):
        with tarfile.open(folder / f"{start // 1000:03}.tar", "w") as archive:
            for n, data in enumerate(tars[start : start + 1000], start):
                for name, content in ((f"{n:06}.jpg", data), (f"{n:06}.txt", f"a photo {n}".encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    table = pa.table({"image": pa.array(rows, pa.binary()), "said": [f"a row {n}" for n in range(len(rows))]})
    parquet.write_table(table, folder / "rows.parquet", row_group_size=200)
    return [str(folder / "files"), *(str(path) for path in sorted(folder.glob("*.tar"))), str(folder / "rows.parquet")]


def run(
    folder: Path,
    photos: Sequence[bytes],
    kills: int,
    seed: int = 0,
    arguments: Sequence[str] = (),
    said: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Index with the small model, killing the driver ``kills`` times on the way."""
    copies = [photos[n] for n in random.Random(seed).sample(range(len(photos)), len(photos) // 10)]
    sources = lay_out([*photos, *copies], folder / "photos")
    store = ArtifactStore(folder / "store")
    tiny_artifact(folder / "model")
    store.publish(folder / "model")
    command = [sys.executable, "-m", "diptych", "index", "bulk", *sources, "--model", "tiny/1", *arguments]
    command += ["--store", str(store.root), "--index-dir", str(folder / "work"), "--name", "bulk"]
    outcome = Outcome(photos=len(photos), copies=len(copies), kills=kills)
    started = time.monotonic()
    with (folder / "bulk.log").open("ab") as log:
        for number in range(1, kills + 1):
            process = subprocess.Popen(command, cwd=folder, env=_environment(), stdout=log, stderr=log)
            while _kept(folder) < len(photos) * number // (kills + 1):
                assert process.poll() is None, (folder / "bulk.log").read_text()[-5000:]
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
            process.wait()
            outcome.kept_at_kill.append(_kept(folder))
            said(f"killed with {outcome.kept_at_kill[-1]:,} photos, {time.monotonic() - started:.0f} s")
        done = subprocess.run(command, cwd=folder, env=_environment(), stdout=log, stderr=log, check=False)
    assert done.returncode == 0, (folder / "bulk.log").read_text()[-5000:]
    outcome.seconds = round(time.monotonic() - started, 1)
    _compare(outcome, IndexDirectory.open(store.path("index", Ref("bulk", "1"))), photos)
    return outcome


def _compare(outcome: Outcome, index: IndexDirectory, photos: Sequence[bytes]) -> None:
    expected = {hashlib.sha256(data).hexdigest()[:16] for data in photos}
    ids = all_ids(index)
    outcome.images, outcome.distinct = len(ids), len(set(ids))
    outcome.missing, outcome.unknown = len(expected - set(ids)), len(set(ids) - expected)
    for image_id in ids:
        try:
            index.content(image_id)  # which compares the hash
        except OSError:
            outcome.unserved += 1


def _kept(folder: Path) -> int:
    found = list((folder / "work").glob("*/items.sqlite"))
    if not found:
        return 0
    try:
        connection = sqlite3.connect(f"file:{found[0]}?mode=ro", uri=True)
        try:
            return int(connection.execute("SELECT count(*) FROM items WHERE collection = 'images'").fetchone()[0])
        finally:
            connection.close()
    except sqlite3.Error:  # it is just being made
        return 0


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--originals", type=Path, help="a folder of JPEGs; drawn ones when left out")
    parser.add_argument("--photos", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        originals = sorted((options.originals or captioned_folder(Path(folder, "drawn"))).glob("*.jpg"))
        photos = variants(originals, options.photos, options.seed)
        outcome = run(Path(folder), photos, options.kills, options.seed, said=lambda line: print(line, flush=True))
    result = json.dumps({**vars(outcome), "whole": outcome.whole}, indent=1)
    print(result)
    if options.json is not None:
        options.json.write_text(result + "\n")
    sys.exit(not outcome.whole)


if __name__ == "__main__":
    main()
