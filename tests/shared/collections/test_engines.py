"""What an index does whatever engine it is in: each test runs on files and on Milvus."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shared.artifacts import IndexManifest, ModelManifest
from shared.collections import IndexDirectory, Library, LibraryReader
from shared.collections.library import Embedded, Put, Remove
from shared.filters import Filter
from tests.support.engines import all_ids, move_to_milvus, put
from tests.support.small import DIM, item, photo, vectors, write_index, write_model, write_photos


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_photos(tmp_path / "photos", 6)
    return tmp_path / "photos"


@pytest.fixture
def model(tmp_path: Path) -> ModelManifest:
    return write_model(tmp_path / "model")


@pytest.fixture(params=["files", "milvus"])
def index(request: pytest.FixtureRequest, tmp_path: Path, root: Path, model: ModelManifest) -> Path:
    """Six photos with two captions each."""
    write_index(tmp_path / "work", tmp_path / "index", root, model)
    if request.param == "milvus":
        move_to_milvus(tmp_path / "index", request.getfixturevalue("milvus_uri"))
    return tmp_path / "index"


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    library = Library(tmp_path / "library")
    yield library
    library.close()


@pytest.fixture
def live(index: Path, library: Library) -> IndexDirectory:
    return IndexDirectory.open(index, library=library)


def found(index: IndexDirectory, name: str) -> set[str]:
    return {*all_ids(index, name)}


def test_an_index_answers_with_what_was_put_in(index: Path, root: Path) -> None:
    opened = IndexDirectory.open(index)
    assert (len(opened.images), len(opened.captions)) == (6, 12)
    for name in ("0.png", "5.png"):
        kept = photo(root, name, [f"{name} as it is", f"also {name}"])
        assert kept.item is not None
        scores, ids = opened.images.search(kept.item.vector[None], 3)
        assert ids[0][0] == kept.image_id
        assert scores[0, 0] == pytest.approx(1, abs=1e-6)
        assert opened.images.metadata(ids[0])[0] == kept.item.metadata
        assert (opened.images.tokens(ids[0])[0].codes == kept.item.tokens.codes).all()
        assert opened.photo(ids[0][0]) == (root / name).resolve()
        second = kept.caption_items[1]
        assert opened.captions.search(second.vector[None], 1)[1] == [[second.id]]
        assert opened.captions.metadata([second.id]) == [{"caption": f"also {name}", "image_id": kept.image_id}]


def test_what_is_not_there_is_a_key_error(index: Path) -> None:
    opened = IndexDirectory.open(index)
    for ask in (opened.images.metadata, opened.captions.tokens):
        with pytest.raises(KeyError):
            ask(["nobody"])
    with pytest.raises(KeyError):
        opened.photo("nobody")
    with pytest.raises(KeyError):
        opened.collection("sounds")
    assert opened.collection("captions") is opened.captions


def test_an_index_is_read_by_many_threads_at_once(index: Path) -> None:
    opened = IndexDirectory.open(index)
    ids = all_ids(opened)
    expected = opened.images.metadata(ids)

    def read(_: int) -> bool:
        return opened.images.metadata(ids) == expected and len(opened.images.tokens(ids)) == len(ids)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(200)))


def test_photos_may_lie_elsewhere_than_when_they_were_indexed(index: Path, root: Path, tmp_path: Path) -> None:
    image_id = photo(root, "0.png").image_id
    assert image_id is not None
    root.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match=f"photo {image_id} is no longer at 0.png"):
        IndexDirectory.open(index).photo(image_id)
    opened = IndexDirectory.open(index, photo_root=tmp_path / "moved")
    assert opened.photo(image_id) == (tmp_path / "moved" / "0.png").resolve()
    assert isinstance(opened.manifest, IndexManifest)


def test_what_is_committed_can_be_found_and_is_there_after_a_restart(
    tmp_path: Path, live: IndexDirectory, library: Library, model: ModelManifest
) -> None:
    change = put(model, "mine", "a red kite", captions=2)
    (seq,) = library.commit([change])
    before = (len(live.images), len(live.captions))
    live.refresh()
    for one in (live, IndexDirectory.open(tmp_path / "index", library=LibraryReader(library.directory))):
        assert one.revision == seq == 1
        assert (len(one.images), len(one.captions)) == (before[0] + 1, before[1] + 2)
        new = change.items["images"][0]
        assert one.images.search(new.vector[None], 1)[1] == [["mine"]]
        assert one.images.metadata(["mine"]) == [{"name": "mine"}]
        assert (one.images.tokens(["mine"])[0].codes == new.tokens.codes).all()
        assert one.content("mine") == b"a red kite"


def test_a_photo_of_the_index_is_replaced_and_removed(
    live: IndexDirectory, library: Library, model: ModelManifest
) -> None:
    first, second = all_ids(live)[:2]
    library.commit([put(model, first, "another"), Remove(second)])
    live.refresh()
    assert found(live, "images") == {*all_ids(live)}
    assert second not in found(live, "images")
    assert live.content(first) == b"another"
    assert {one["image_id"] for one in live.captions.metadata(sorted(found(live, "captions")))}.isdisjoint({second})
    with pytest.raises(KeyError):
        live.content(second)


def test_a_filter_finds_all_that_fit_among_photos_and_their_captions(
    live: IndexDirectory, library: Library, model: ModelManifest
) -> None:
    for n in range(30):
        change = put(model, f"mine-{n}", f"content {n}")
        library.commit([replace(change, about={"name": "x", "metadata": {"year": 2000 + n}})])
    library.commit([Remove("mine-25")])
    live.refresh()
    where = Filter.parse('{"year": {"gte": 2024, "lt": 2028}}')
    for collection, end in ((live.images, ""), (live.captions, "-0")):
        _, (ids,) = collection.search(vectors(0, 1), 3, where=where)
        assert set(ids) == {f"mine-{n}{end}" for n in (24, 26, 27)}
        assert collection.search(vectors(0, 1), 3, ["no"], where)[1] == [[]]
        assert len(collection.search(vectors(0, 1), 1000, where=Filter.parse("{}"))[1][0]) == len(collection)


def test_a_photo_that_a_model_has_not_seen_is_pending_until_it_has(
    tmp_path: Path, live: IndexDirectory, library: Library, model: ModelManifest
) -> None:
    other = write_model(tmp_path / "other", weights=b"two")
    change = put(other, "mine", "a red kite")
    library.commit([change])
    live.refresh()
    assert live.pending == {"mine": 1}
    assert "mine" not in found(live, "images")
    assert library.commit([Embedded("mine", 1, model.fingerprint, change.items)]) == [2]
    live.refresh()
    assert live.pending == {}
    assert "mine" in found(live, "images")
    assert [len(news.rows or ()) for news in library.news(0, other.fingerprint, DIM)] == [2]  # it has not lost its own


@pytest.mark.parametrize(
    ("queries", "k", "says"),
    [
        (vectors(1, 1), 0, "k must be at least 1"),
        (np.ones((1, DIM + 1), np.float32), 1, "this index has 8 dimensions"),
        (np.full((1, DIM), np.nan, np.float32), 1, "unit vectors are needed"),
    ],
)
def test_a_query_without_a_meaning_is_a_value_error(
    index: Path, queries: np.ndarray[tuple[int, int], np.dtype[np.float32]], k: int, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        IndexDirectory.open(index).images.search(queries, k)


def test_results_are_exact_and_equal_ones_come_in_the_order_in_which_they_came(
    live: IndexDirectory, library: Library, model: ModelManifest
) -> None:
    same = vectors(7, 1)[0]
    for n in range(40):
        change = put(model, f"twin-{39 - n}", f"{n}")
        made = {"images": [replace(change.items["images"][0], vector=same)], "captions": change.items["captions"]}
        library.commit([replace(change, items=made)])
    live.refresh()
    for k in (1, 5, 39, 41, 100):
        scores, (ids,) = live.images.search(same[None], k)
        assert ids[:40] == [f"twin-{39 - n}" for n in range(min(k, 40))]
        assert scores.shape == (1, min(k, 46))
    ids = all_ids(live)
    stored = np.stack([one.vector for one in live.images.items(ids)])
    queries = vectors(8, 5)
    scores, _ = live.images.search(queries, 20)
    np.testing.assert_allclose(scores, -np.sort(-(queries @ stored.T), axis=1)[:, :20], atol=1e-6)


def test_no_queries_have_no_answers(index: Path) -> None:
    scores, ids = IndexDirectory.open(index).images.search(np.zeros((0, DIM), np.float32), 3)
    assert (scores.shape, ids) == ((0, 3), [])


FILTERS = [
    '{"place": "Rome"}', '{"place": ["Rome", "Oslo"]}', '{"place": null}', '{"n": 1}', '{"n": 1.0}', '{"n": true}',
    '{"n": "1"}', '{"n": {"gte": 1}}', '{"n": {"gt": 1, "lte": 3}}', '{"n": {"lt": -1e300}}', '{"n": {"gt": 1e16}}',
    '{"n": {"gt": 9007199254740992}}', '{"n": {"gte": 9007199254740993, "lt": 9007199254740994}}',
    '{"n": {"lte": 9007199254740993}}', '{"n": 9007199254740993}', '{"n": {"gt": 1' + "0" * 400 + "}}",
    '{"n": {"lt": 1' + "0" * 400 + "}}", '{"n": {"gte": 2}, "place": "Rome"}', '{"\\"] == 1 or \'": 1}',
    '{"place": "\\" or id != \\""}', '{"n": []}', '{"nothing": {"lt": 5}}', '{"n": 0}', '{"n": -0.0}',
]  # fmt: skip
SAID: list[dict[str, Any]] = [
    {}, {"place": "Rome"}, {"place": None}, {"place": ["Rome", "Kiel"], "n": 2}, {"place": {"Rome": 1}}, {"n": 1},
    {"n": 1.0}, {"n": True}, {"n": "1"}, {"n": [1, 5]}, {"n": [True, "3"]}, {"n": [[2]]}, {"n": 2.5, "place": "Rome"},
    {"n": 2**53}, {"n": 2**53 + 1}, {"n": [2**53 + 1]}, {"n": 10**400}, {"n": -(10**400)}, {"n": 1e300}, {"n": -1e301},
    {'"] == 1 or \'': 1}, {"place": '" or id != "'}, {"n": 0}, {"n": -0.0, "place": "Oslo"}, {"n": 5e-324},
]  # fmt: skip


def test_a_filter_means_what_it_means_in_python(live: IndexDirectory, library: Library, model: ModelManifest) -> None:
    changes = [
        replace(put(model, f"mine-{n}", f"{n}"), about={"name": "x", "metadata": said}) for n, said in enumerate(SAID)
    ]
    library.commit(changes)
    live.refresh()
    for text in FILTERS:
        try:
            where = Filter.parse(text)
        except ValueError:
            assert text == '{"n": []}'
            continue
        expected = {f"mine-{n}" for n, said in enumerate(SAID) if where.fits(said)}
        _, (ids,) = live.images.search(vectors(0, 1), 100, where=where)
        assert set(ids) == expected, text
        _, (ids,) = live.captions.search(vectors(0, 1), 100, where=where)
        assert set(ids) == {f"{one}-0" for one in expected}, text


def test_tags_are_looked_for_as_they_are(live: IndexDirectory, library: Library, model: ModelManifest) -> None:
    tags = [["a"], ["a", "b"], ['"] or true', "ä"], []]
    for n, own in enumerate(tags):
        change = put(model, f"mine-{n}", f"{n}")
        made = {name: [replace(one, metadata={**one.metadata, "tags": own}) for one in some]
                for name, some in change.items.items()}  # fmt: skip
        library.commit([replace(change, items=made)])
    live.refresh()
    for wanted, ids in ((["a"], {0, 1}), (["a", "b"], {1}), (['"] or true'], {2}), (["ä", "a"], set()), (["A"], set())):
        assert set(live.images.search(vectors(0, 1), 9, wanted)[1][0]) == {f"mine-{n}" for n in ids}
        assert set(live.captions.search(vectors(0, 1), 9, wanted)[1][0]) == {f"mine-{n}-0" for n in ids}


def test_pages_go_through_all_ids_in_order_from_wherever_they_are_asked(
    live: IndexDirectory, library: Library, model: ModelManifest
) -> None:
    base = all_ids(live)
    library.commit([put(model, "m.1", "x"), put(model, "Z_", "y"), Remove(base[3])])
    live.refresh()
    ids = sorted({*base, "m.1", "Z_"} - {base[3]})
    for after in ("", ids[2], base[3], "a", '"', 'm.1"', "m.é", "zz", "\x00", ids[0][:3] + "~"):
        assert live.page(after, 100) == [one for one in ids if one > after]
        assert live.page(after, 2) == [one for one in ids if one > after][:2]


def test_what_is_published_is_told_of_a_photo(live: IndexDirectory, root: Path) -> None:
    kept = photo(root, "3.png")
    assert kept.image_id is not None
    about = live.about(kept.image_id)
    assert (about["name"], about["captions"]) == ("3.png", ["3.png as it is", "also 3.png"])
    for nobody in ("nobody", '"', "x" * 400):
        with pytest.raises(KeyError):
            live.about(nobody)


def test_two_that_follow_one_library_and_one_that_starts_again_end_the_same(
    index: Path, live: IndexDirectory, library: Library, model: ModelManifest
) -> None:
    other = IndexDirectory.open(index, library=library)
    base = all_ids(live)
    library.commit([put(model, "mine", "first", captions=3), Remove(base[0])])
    live.refresh()
    library.commit([put(model, "mine", "second"), Remove(base[1]), put(model, base[0], "back")])
    other.refresh()
    live.refresh()
    for one in (live, other, IndexDirectory.open(index, library=library)):
        assert found(one, "images") == {*base, "mine"} - {base[1]}
        assert one.captions.metadata(["mine-0"])[0]["caption"] == "second"
        assert len(one.captions) == len(found(one, "captions")) == 2 * 4 + 2
        with pytest.raises(KeyError):
            one.about(base[1])


def test_an_item_that_cannot_be_kept_is_refused_before_it_is_put(live: IndexDirectory) -> None:
    with pytest.raises(ValueError, match=r"of length (2|1\.99|2\.00)"):
        live.images.check(replace(item("good"), vector=2 * item("good").vector))
    live.images.check(item("good"))


class Machine(RuleBasedStateMachine):
    """Any order of changes, refreshes and restarts leaves what a dictionary would hold."""

    uri: ClassVar[str | None] = None
    ids = st.sampled_from(["a", "b", "c", "d"])

    @initialize()
    def start(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.model = write_model(self.root / "model")
        write_photos(self.root / "photos", 3)
        write_index(self.root / "work", self.root / "index", self.root / "photos", self.model)
        if self.uri is not None:
            move_to_milvus(self.root / "index", self.uri)
        self.library = Library(self.root / "library")
        self.index = IndexDirectory.open(self.root / "index", library=self.library)
        self.base = all_ids(self.index)
        self.expected = dict.fromkeys(self.base, "")

    @rule(one=ids, content=st.sampled_from(["x", "y", "z"]))
    def put(self, one: str, content: str) -> None:
        self.library.commit([put(self.model, one, content)])
        self.expected[one] = content

    @rule(place=st.integers(0, 2), content=st.sampled_from(["x", "y"]))
    def replace_published(self, place: int, content: str) -> None:
        self.put(self.base[place], content)

    @rule(one=ids, content=st.sampled_from(["x", "y"]))
    def put_for_another_model_and_embed(self, one: str, content: str) -> None:
        other = put(self.model, one, content)
        (seq,) = self.library.commit([Put(other.id, other.data, other.about, "another model", other.items)])
        assert seq is not None
        self.index.refresh()
        assert self.index.pending == {one: seq}
        assert one not in found(self.index, "images")
        assert self.library.commit([Embedded(one, seq - 1, self.model.fingerprint, other.items)]) == [None]
        assert self.library.commit([Embedded(one, seq, self.model.fingerprint, other.items)]) == [seq + 1]
        self.expected[one] = content

    @precondition(lambda self: self.expected)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(sorted(self.expected)))
        self.library.commit([Remove(one)])
        del self.expected[one]

    @rule()
    def restart(self) -> None:
        self.library.close()
        self.library = Library(self.root / "library")
        self.index = IndexDirectory.open(self.root / "index", library=self.library)

    @invariant()
    def the_index_holds_what_was_put_in(self) -> None:
        self.index.refresh()
        assert found(self.index, "images") == set(self.expected)
        for one, content in self.expected.items():
            if content:
                vector = item(f"{one} {content}").vector
                assert self.index.images.search(vector[None], 1)[1] == [[one]]
                assert self.index.content(one) == content.encode()
        texts = self.index.captions.metadata(sorted(found(self.index, "captions")))
        assert {about["image_id"] for about in texts} == set(self.expected)

    def teardown(self) -> None:
        self.library.close()
        shutil.rmtree(self.root)


@pytest.mark.parametrize("engine", ["files", "milvus"])
def test_any_order_of_changes(engine: str, request: pytest.FixtureRequest) -> None:
    uri = request.getfixturevalue("milvus_uri") if engine == "milvus" else None
    machine = type("Machine", (Machine,), {"uri": uri})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=15 if uri is None else 3,
            stateful_step_count=15 if uri is None else 8,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
