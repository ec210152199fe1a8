"""Sealed shards of every kind, held against exact search."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest

from shared.artifacts import ArtifactError, IndexManifest, hash_files, read_manifest, write_manifest
from shared.collections import Collection, IndexBuilder, IndexDirectory, Item, Library, Photo, Sealing, Snapshot
from shared.collections.kinds import bytes_per_item, choose
from shared.collections.library import LibraryReader, Put, Remove
from shared.schemas import ShardKind
from shared.tokens import TokenFeatures
from tests.support.small import TOKEN_DIM, write_model

DIM, N = 16, 12_000
KINDS: tuple[ShardKind, ...] = get_args(ShardKind)
NO_TOKENS = TokenFeatures(np.zeros((1, TOKEN_DIM), np.int8), np.zeros(1, np.float16))


def clustered(seed: int, n: int) -> npt.NDArray[np.float32]:
    """Unit vectors (n, DIM) about 50 directions, as things of a few kinds lie."""
    rng = np.random.default_rng(seed)
    about = np.random.default_rng(0).standard_normal((50, DIM))[rng.integers(0, 50, n)]
    found = (about + 0.5 * rng.standard_normal((n, DIM))).astype(np.float32)
    unit: npt.NDArray[np.float32] = found / np.linalg.norm(found, axis=1, keepdims=True)
    return unit


VECTORS = clustered(1, N)
QUERIES = clustered(2, 100)


@pytest.fixture(scope="module")
def building(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IndexBuilder]:
    """N photos, a tenth of them with a caption and tagged."""
    folder = tmp_path_factory.mktemp("building")
    model = write_model(folder / "model", dim=DIM)
    words = clustered(3, N)
    with IndexBuilder(folder / "work", model, folder) as builder:
        builder.add(_photo(n, VECTORS[n], words[n] if n % 10 == 0 else None) for n in range(N))
        yield builder


def _photo(n: int, vector: npt.NDArray[np.float32], caption: npt.NDArray[np.float32] | None) -> Photo:
    about = {"name": f"{n}", "path": f"{n}", "tags": ["some"] if n % 10 == 0 else [], "metadata": {"n": n % 3}}
    captions = [] if caption is None else [Item(f"p{n}-0", {"caption": "", "image_id": f"p{n}"}, caption, NO_TOKENS)]
    return Photo(f"{n}", 1, 0, [""] * len(captions), f"p{n}", Item(f"p{n}", about, vector, NO_TOKENS), captions)


@pytest.fixture(scope="module", params=KINDS)
def artifact(request: pytest.FixtureRequest, building: IndexBuilder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sealed as each of the kinds. Read-only."""
    folder = tmp_path_factory.mktemp(request.param) / "index"
    building.seal(folder, "photos", "1", sealing=Sealing(request.param, recall=0.95))
    return folder


def recall(ids: list[list[str]], truth: Snapshot, k: int = 10, among: npt.NDArray[np.bool_] | None = None) -> float:
    rows = truth.search(QUERIES, k, among)[1]
    wanted = [{truth.id(row) for row in line} for line in rows]
    return float(np.mean([len(one & set(found)) / k for one, found in zip(wanted, ids, strict=True)]))


TRUTH = Snapshot([f"p{n}" for n in range(N)], VECTORS)


def test_each_kind_reaches_the_recall_it_was_tuned_to(artifact: Path) -> None:
    opened = IndexDirectory.open(artifact)
    about = opened.manifest.shards["images"]
    scores, ids = opened.images.search(QUERIES, 10)
    assert recall(ids, TRUTH) >= 0.94
    assert about.recall_at_10 >= (1 if about.kind == "flat" else 0.94)
    rows = np.array([[int(one[1:]) for one in line] for line in ids])
    exact = np.einsum("bd,bkd->bk", QUERIES, VECTORS[rows])
    np.testing.assert_allclose(scores, exact, atol=1e-6)  # what is found has its exact score
    assert (np.diff(scores, axis=1) <= 0).all()


def test_filters_find_all_there_is(artifact: Path) -> None:
    images = IndexDirectory.open(artifact).images
    tagged = np.arange(N) % 10 == 0
    scores, ids = images.search(QUERIES, 10, tags=["some"])
    assert recall(ids, TRUTH, among=tagged) == 1
    assert images.search(QUERIES[:1], N, tags=["some"])[0].shape == (1, N // 10)
    scores, ids = images.search(QUERIES, 700)
    assert scores.shape == (100, 700)
    assert recall(ids, TRUTH, 700) > 0.9


def test_wide_filters_keep_the_recall(artifact: Path) -> None:
    images = IndexDirectory.open(artifact).images
    assert isinstance(images, Collection)
    snapshot = images.snapshot
    most = np.arange(N) % 8 != 0
    _, rows = snapshot.search(QUERIES, 10, most)
    assert most[rows].all()
    assert recall([[f"p{row}" for row in line] for line in rows], TRUTH, among=most) >= 0.93


def test_live_changes_are_found_beside_what_was_sealed(artifact: Path, tmp_path: Path) -> None:
    fingerprint = read_manifest(artifact).fingerprint
    new = QUERIES[0]
    with closing(Library(tmp_path / "library")) as library:
        about = {"name": "new", "captions": [], "tags": [], "metadata": {}, "bytes": 1, "media_type": "image/png"}
        items = {"images": [Item("new", {"name": "new"}, new, NO_TOKENS)], "captions": []}
        before = IndexDirectory.open(artifact).images.search(QUERIES[:1], 3)[1][0]
        library.commit([Put("new", b"new", about, fingerprint, items), Remove(before[0])])
        opened = IndexDirectory.open(artifact, library=LibraryReader(tmp_path / "library"))
    scores, ids = opened.images.search(QUERIES[:1], 3)
    assert ids[0] == ["new", *before[1:]]
    assert scores[0, 0] == pytest.approx(1)
    assert len(opened.images) == N


def test_an_index_that_was_published_before_still_opens(building: IndexBuilder, tmp_path: Path) -> None:
    building.seal(tmp_path / "old", "photos", "1")
    for path in (tmp_path / "old").glob("*.npy"):
        path.unlink()
    manifest = read_manifest(tmp_path / "old")
    assert isinstance(manifest, IndexManifest)
    write_manifest(tmp_path / "old", manifest.model_copy(update={"files": hash_files(tmp_path / "old"), "shards": {}}))
    images = IndexDirectory.open(tmp_path / "old").images
    assert recall(images.search(QUERIES, 10)[1], TRUTH) == 1
    assert recall(images.search(QUERIES, 10, ["some"])[1], TRUTH, among=np.arange(N) % 10 == 0) == 1


def test_a_rebuild_takes_in_live_changes_while_searches_go_on(tmp_path: Path) -> None:
    first, later = N - 100, range(N - 100, N)
    model = write_model(tmp_path / "model", dim=DIM)
    with IndexBuilder(tmp_path / "work", model, tmp_path) as builder:
        builder.add(_photo(n, VECTORS[n], None) for n in range(first))
        old = builder.seal(tmp_path / "old", "photos", "1", sealing=Sealing("ivf_sq8"))
        with closing(Library(tmp_path / "library")) as library:
            about = {"name": "", "captions": [], "tags": [], "metadata": {}, "bytes": 1, "media_type": "image/png"}
            for n in later:
                items = {"images": [Item(f"p{n}", {"name": ""}, VECTORS[n], NO_TOKENS)], "captions": []}
                library.commit([Put(f"p{n}", b"photo", about, old.fingerprint, items)])
        served = IndexDirectory.open(tmp_path / "old", library=LibraryReader(tmp_path / "library")).images
        assert recall(served.search(QUERIES, 10)[1], TRUTH) >= 0.93
        builder.add(_photo(n, VECTORS[n], None) for n in later)

    def rebuild() -> None:
        with IndexBuilder(tmp_path / "work", model, tmp_path) as builder:
            builder.seal(tmp_path / "new", "photos", "2", 100, Sealing("ivf_sq8"))

    answers: list[float] = []
    with ThreadPoolExecutor(1) as pool:
        rebuilding = pool.submit(rebuild)
        while not rebuilding.done() or not answers:
            answers.append(recall(served.search(QUERIES, 10)[1], TRUTH))
        rebuilding.result()
    assert min(answers) >= 0.93
    rebuilt = IndexDirectory.open(tmp_path / "new", library=LibraryReader(tmp_path / "library")).images
    assert len(rebuilt) == N
    assert recall(rebuilt.search(QUERIES, 10)[1], TRUTH) >= 0.93


def test_files_that_do_not_fit_together_are_told(building: IndexBuilder, tmp_path: Path) -> None:
    building.seal(tmp_path / "index", "photos", "1")
    np.save(tmp_path / "index/images.ids.npy", np.array([b"one"]))
    manifest = read_manifest(tmp_path / "index")
    write_manifest(tmp_path / "index", manifest.model_copy(update={"files": hash_files(tmp_path / "index")}))
    with pytest.raises(ArtifactError, match=r"files of images do not fit together .*build it again"):
        IndexDirectory.open(tmp_path / "index")


def test_few_items_are_always_searched_exactly(building: IndexBuilder) -> None:
    assert Sealing("ivf_pq").kinds({"images": 999, "captions": 1000}, 512) == {"images": "flat", "captions": "ivf_pq"}
    assert building.contents() == building.contents(sealing=Sealing("flat", recall=0.5))
    assert building.contents() != building.contents(sealing=Sealing("hnsw"))


@pytest.mark.parametrize(
    ("items", "gigabytes", "recall", "kind"),
    [
        (0, 4, 0.95, "flat"),
        (50_000, 4, 0.95, "flat"),
        (50_000, 0.05, 0.95, "hnsw"),
        (1_000_000, 4, 0.95, "hnsw"),
        (1_000_000, 0.6, 0.95, "ivf_sq8"),
        (10_000_000, 2, 0.95, "ivf_pq"),
        (10_000_000, 0.1, 0.95, "ivf_pq"),
        (10_000_000, 4, 1.0, "flat"),
    ],
)
def test_the_kind_goes_by_items_memory_and_recall(items: int, gigabytes: float, recall: float, kind: ShardKind) -> None:
    assert choose(items, 512, int(gigabytes * 1e9), recall) == kind
    assert bytes_per_item("ivf_pq", 512) < bytes_per_item("ivf_sq8", 512) < bytes_per_item("hnsw", 512)
