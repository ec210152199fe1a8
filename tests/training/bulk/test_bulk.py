"""Bulk indexing on a small Ray cluster: the same items as ``index build`` makes, whatever the photos lie in."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import tarfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest
import ray
from pyarrow import parquet
from rich.console import Console

from shared.artifacts import ArtifactStore, Ref
from shared.collections import IndexBuilder, IndexDirectory
from tests.support.engines import all_ids
from tests.support.photos import draw, png_bomb
from training import index_build
from training.bulk.job import BulkPhotos
from training.bulk.sources import Columns, Sources
from training.data.captioned import DataError

MODEL = Ref("tiny", "1")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(
        "local", num_cpus=2, include_dashboard=False, object_store_memory=500_000_000, log_to_driver=False,
        logging_level=logging.CRITICAL,
    )  # fmt: skip
    yield
    ray.shutdown()


class Bench:
    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.store = ArtifactStore(folder / "store")
        self.store.publish(model)
        self.console = Console(record=True, width=250)

    def bulk(
        self, *sources: object, name: str = "bulk", root: str | None = None, columns: Columns | None = None
    ) -> Ref:
        found = Sources([str(source) for source in sources], root, columns)
        photos = BulkPhotos(found, self.store.path("model", MODEL), concurrency=1)
        return self._build(photos, name)

    def build(self, folder: Path) -> Ref:
        return self._build(index_build.photos_in(folder), "built")

    def opened(self, ref: Ref) -> IndexDirectory:
        return IndexDirectory.open(self.store.path("index", ref))

    def said(self) -> str:
        return self.console.export_text()

    def _build(self, photos: index_build.Photos, name: str) -> Ref:
        return index_build.build(
            self.store, MODEL, photos, self.folder / f"work-{name}", name=name, batch_size=8, activate=False,
            console=self.console,
        )  # fmt: skip


@pytest.fixture
def bench(tmp_path: Path, tiny_model: Path) -> Bench:
    return Bench(tmp_path, tiny_model)


@pytest.fixture(scope="module")
def samples(drawn_photos: Path) -> dict[str, tuple[bytes, list[str]]]:
    """The first nine of the drawn photos, in order, with their captions."""
    lines = [json.loads(line) for line in (drawn_photos / "captions.jsonl").read_text().splitlines()]
    return {
        one["image"]: ((drawn_photos / one["image"]).read_bytes(), one["captions"])
        for one in sorted(lines, key=lambda one: str(one["image"]))[:9]
    }


@pytest.fixture
def folder(tmp_path: Path, samples: dict[str, tuple[bytes, list[str]]]) -> Path:
    return write_folder(tmp_path / "photos", samples)


def write_folder(folder: Path, samples: dict[str, tuple[bytes, list[str]]]) -> Path:
    folder.mkdir()
    for name, (data, _) in samples.items():
        (folder / name).write_bytes(data)
    (folder / "captions.jsonl").write_text(captions(samples))
    return folder


def captions(samples: dict[str, tuple[bytes, list[str]]]) -> str:
    return "".join(json.dumps({"image": name, "captions": said}) + "\n" for name, (_, said) in samples.items())


def write_tar(file: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    with tarfile.open(file, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file


def sample_members(samples: dict[str, tuple[bytes, list[str]]]) -> list[tuple[str, bytes]]:
    found = []
    for name, (data, said) in samples.items():
        found += [(name, data), (f"{Path(name).stem}.json", json.dumps({"said": said}).encode())]
    return found


def same(one: IndexDirectory, other: IndexDirectory) -> None:
    """The same items with the same vectors, tokens and captions, though their paths may differ."""
    for kind in ("images", "captions"):
        mine, theirs = one.collection(kind), other.collection(kind)
        ids = sorted(all_ids(one, kind))
        assert ids == sorted(all_ids(other, kind))
        for a, b in zip(mine.items(ids), theirs.items(ids), strict=True):
            assert np.allclose(a.vector, b.vector, atol=1e-5)
            assert np.abs(a.tokens.codes.astype(int) - b.tokens.codes.astype(int)).max() <= 1
            assert {**a.metadata, "path": ""} == {**b.metadata, "path": ""}
    for image_id in all_ids(one):
        assert one.content(image_id) == other.content(image_id)


def test_each_source_gives_what_index_build_gives(
    bench: Bench, folder: Path, samples: dict[str, tuple[bytes, list[str]]], tmp_path: Path
) -> None:
    built = bench.opened(bench.build(folder))
    assert len(built.images) == 9
    same(bench.opened(bench.bulk(folder, name="folder")), built)

    named = Columns(captions="said")
    entries = list(sample_members(samples))
    shards = tmp_path / "shards"
    shards.mkdir()
    write_tar(shards / "0.tar", entries[:8])
    write_tar(shards / "1.tar", entries[8:])
    same(bench.opened(bench.bulk(shards / "*.tar", name="tar", columns=named)), built)

    images = [{"bytes": data, "path": f"there/{name}"} for name, (data, _) in samples.items()]
    rows = pa.table({"the image": images, "said": [said for _, said in samples.values()]})
    parquet.write_table(rows, tmp_path / "rows.parquet", row_group_size=4)
    named = Columns("the image", "said")
    same(bench.opened(bench.bulk(tmp_path / "rows.parquet", name="parquet", columns=named)), built)


def test_a_second_run_looks_at_nothing_and_a_changed_shard_is_read_again(
    bench: Bench, samples: dict[str, tuple[bytes, list[str]]], tmp_path: Path
) -> None:
    entries = sample_members(samples)
    shard = write_tar(tmp_path / "0.tar", entries[:6])
    first = bench.bulk(shard)
    assert "looked at 3 photos" in bench.said()
    assert bench.bulk(shard) == first
    assert "looked at" not in bench.said().split("index bulk: 3 photos")[-1]
    write_tar(shard, entries[2:10])
    os.utime(shard, (5, 5))
    assert len(bench.opened(bench.bulk(shard)).images) == 4


def test_copies_and_problems_are_left_out_and_counted(
    bench: Bench, samples: dict[str, tuple[bytes, list[str]]], tmp_path: Path
) -> None:
    (first, one), (_, two), (_, three), *_ = [(name, data) for name, (data, _) in samples.items()]
    mixed = tmp_path / "mixed"
    (mixed / "photos").mkdir(parents=True)
    for name, data in ((first, one), ("z-copy.jpg", one), ("cut.jpg", one[: len(one) // 2]), ("empty.png", b""),
                       ("bomb.png", png_bomb(30_000, 30_000))):  # fmt: skip
        (mixed / "photos" / name).write_bytes(data)
    write_tar(mixed / "whole.tar", [("a.jpg", one), ("b.jpg", two), ("b.txt", b"x" * 20_000), ("c.txt", b"no photo")])
    cut = write_tar(mixed / "cut.tar", [("c.jpg", three), ("d.jpg", two * 50)])
    cut.write_bytes(cut.read_bytes()[: 2048 + len(three)])
    (mixed / "no.tar").write_text("no tar at all")
    rows = {"image": pa.array([None, b"no image", two], pa.binary())}
    parquet.write_table(pa.table(rows), mixed / "rows.parquet")
    parquet.write_table(pa.table({"picture": [b""]}), mixed / "unnamed.parquet")
    (mixed / "broken.parquet").write_bytes(b"PAR1 and nothing else")
    ref = bench.bulk(mixed / "photos", mixed / "*.tar", mixed / "*.parquet")
    index = bench.opened(ref)
    assert {about["name"] for about in index.images.metadata(all_ids(index))} == {first, "b.jpg", "c.jpg"}
    assert len(index.captions) == 0
    problems = {
        "photos/z-copy.jpg": "the same photo as photos/",
        "photos/cut.jpg": "the image",
        "photos/empty.png": "the image is empty",
        "photos/bomb.png": "over the limit",
        "whole.tar::512+": "the same photo as photos/",
        "cut.tar::": "the tar file ends in the middle of it",
        "no.tar": "it is not an uncompressed tar file",
        "rows.parquet::0.0+image/0-0": "column 'image' holds no image there",
        "rows.parquet::0.1+image/0-1": "are not a whole image",
        "rows.parquet::0.2+image/0-2": "the same photo as whole.tar::",
        "unnamed.parquet": "it has no column 'image', but picture",
        "broken.parquet": "it is not a Parquet file",
    }
    with IndexBuilder(tmp_path / "work-bulk", bench.store.model(MODEL), mixed) as builder:
        found = builder.problems()
    for path, problem in problems.items():
        assert [said for where, said in found if where.startswith(path) and problem in said], (path, found)
    assert "left out 1 captions that are empty, too long or not Unicode" in bench.said()
    # What is broken for good is not read again.
    assert bench.bulk(mixed / "photos", mixed / "*.tar", mixed / "*.parquet") == ref


def test_a_copy_in_a_shard_takes_the_place_of_a_photo_that_is_gone(
    bench: Bench, folder: Path, samples: dict[str, tuple[bytes, list[str]]], tmp_path: Path
) -> None:
    shard = write_tar(tmp_path / "copies.tar", sample_members(samples))
    assert len(bench.opened(bench.bulk(folder, shard)).images) == 9
    for name in list(samples)[:4]:
        (folder / name).unlink()
    (folder / "captions.jsonl").unlink()
    index = bench.opened(bench.bulk(folder, shard))
    paths = sorted(about["path"] for about in index.images.metadata(all_ids(index)))
    assert (len(paths), sum(path.startswith("copies.tar::") for path in paths)) == (9, 4)


def test_an_engine_that_is_killed_loses_and_doubles_nothing(
    bench: Bench, samples: dict[str, tuple[bytes, list[str]]], tmp_path: Path
) -> None:
    photos = tmp_path / "many"
    photos.mkdir()
    for n in range(300):
        draw("ball", "red", "blue", (40 + n, 40)).save(photos / f"{n}.png")
    killed: list[int] = []
    raylets = {int(node["NodeManagerPort"]) for node in ray.nodes()}  # type: ignore[no-untyped-call]
    assert len(raylets) == 1
    session = ray._private.worker._global_node.session_name  # type: ignore[attr-defined]

    def kill() -> None:
        until = time.monotonic() + 60
        while not killed and time.monotonic() < until:
            for process in Path("/proc").iterdir():
                if process.name.isdigit() and _is_engine(process, session):
                    time.sleep(0.3)
                    os.kill(int(process.name), signal.SIGKILL)
                    killed.append(int(process.name))
                    return
            time.sleep(0.05)

    killer = threading.Thread(target=kill)
    killer.start()
    index = bench.opened(bench.bulk(photos))
    killer.join()
    assert killed
    assert len(index.images) == len(set(all_ids(index))) == 300


def _is_engine(process: Path, session: str) -> bool:
    """Whether it is an actor of this cluster."""
    try:
        if not (process / "cmdline").read_bytes().startswith(b"ray::MapWorker"):
            return False
        parent = (process / "stat").read_text().rsplit(")", 1)[1].split()[1]
        return session.encode() in Path(f"/proc/{parent}/cmdline").read_bytes()
    except OSError:
        return False


def test_an_object_store_is_a_root_like_any_other(
    bench: Bench, folder: Path, samples: dict[str, tuple[bytes, list[str]]]
) -> None:
    # file:// is local; a URL that stays one has to be readable by the workers, too, which memory:// is not.
    same(bench.opened(bench.bulk(f"file://{folder}")), bench.opened(bench.build(folder)))


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (["nowhere"], r"nowhere cannot be reached: "),
        (["notes.txt"], r"notes\.txt is neither a folder of photos nor a \.tar or \.parquet file"),
        (["none*.tar"], r"none\*\.tar cannot be reached: no file fits the pattern"),
        (["nosuch://bucket/photos"], r"nosuch://bucket/photos cannot be reached: Protocol not known"),
        (["memory://no/such"], r"memory://no/such cannot be reached: "),
        (["a*b.tar"], r"has :: in its name"),
        (["photos", "memory://there"], r"the sources lie in different stores"),
    ],
)
def test_what_cannot_be_reached_is_said_before_work_starts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, sources: list[str], message: str
) -> None:
    monkeypatch.chdir(folder.parent)
    Path("notes.txt").write_text("")
    write_tar(Path("a::b.tar"), [])
    memory = fsspec.filesystem("memory")
    memory.pipe("/there/1.jpg", b"")
    try:
        with pytest.raises(DataError, match=message):
            Sources(sources)
    finally:
        memory.rm("/there", recursive=True)


def test_photos_of_a_url_are_listed_with_their_captions_and_read_back(
    samples: dict[str, tuple[bytes, list[str]]],
) -> None:
    from shared.collections import addresses

    memory = fsspec.filesystem("memory")
    for name, (data, _) in samples.items():
        memory.pipe(f"/bucket/photos/{name}", data)
    memory.pipe("/bucket/photos/.hidden/1.jpg", b"")
    memory.pipe("/bucket/photos/captions.jsonl", captions(samples).encode())
    try:
        sources = Sources(["memory://bucket/photos"])
        units = list(sources.units())
        assert [(unit.path, list(unit.captions)) for unit in units] == [(n, said) for n, (_, said) in samples.items()]
        assert sources.root == "memory:///bucket/photos"
        assert addresses.root_of(sources.root) == sources.root
        for unit in units:
            assert addresses.read(sources.root, unit.path) == samples[unit.path][0]
        again = list(Sources(["memory://bucket/photos"]).units())
        assert units == again
        memory.pipe(f"/bucket/photos/{units[0].path}", b"changed")
        assert [unit.path for unit in Sources(["memory://bucket/photos"]).units() if unit not in again] == [
            units[0].path
        ]
    finally:
        memory.rm("/bucket", recursive=True)


def test_a_root_is_the_nearest_folder_above_or_the_one_that_is_named(folder: Path, tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [])
    assert Sources([str(folder)]).root == folder
    assert Sources([str(folder), str(tmp_path / "0.tar")]).root == tmp_path
    named = Sources([str(folder)], root=str(tmp_path))
    assert {unit.path.split("/")[0] for unit in named.units()} == {folder.name}
    with pytest.raises(DataError, match="does not lie under the root"):
        Sources([str(tmp_path / "0.tar")], root=str(folder))
