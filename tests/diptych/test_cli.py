"""The console command, as typed: what it prints, what it leaves behind, and how it says that it cannot."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from diptych.cli import app
from shared.artifacts import ArtifactStore, Ref
from shared.scoring import Cut
from tests.support.variants import described

HELP_WIDTH = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
CAPTION = "a red ball on green"


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env=HELP_WIDTH)
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


def fails(*arguments: object) -> str:
    """The one sentence that a refused command ends in."""
    result = run(*arguments, code=1)
    assert isinstance(result.exception, SystemExit)  # and nothing that nobody caught
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.output
    return result.stderr.removeprefix("error: ").strip()


@dataclass(frozen=True)
class Shelf:
    """A store whose model and index are being served, and a caption-less index beside them."""

    store: Path
    photos: Path
    work: Path


@pytest.fixture(scope="module")
def shelf(tiny_model: Path, drawn_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    folder = tmp_path_factory.mktemp("shelf")
    photos = shutil.copytree(drawn_photos, folder / "photos")
    run("publish", tiny_model, "--store", folder / "store")
    done = run(
        *("index", "build", "--img_dir", photos, "--cap_file", photos / "captions.jsonl", "--batch_size", 16),
        *("--index_dir", folder / "work", "--model_type", "cross", "--vocab", tiny_model / "vocab.json"),
        *("--store", folder / "store"),
    )
    assert "36 photos, 72 captions" in done.stdout
    assert "index photos/1 is being served" in done.stdout
    return Shelf(folder / "store", photos, folder / "work")


@pytest.fixture
def copy(shelf: Shelf, tmp_path: Path) -> Path:
    """A store of the test's own."""
    return shutil.copytree(shelf.store, tmp_path / "store")


def _commands(command: object, *path: str) -> list[tuple[str, ...]]:
    below = getattr(command, "commands", {})
    return [path, *(found for name, one in below.items() for found in _commands(one, *path, name))]


@pytest.mark.parametrize("path", _commands(typer.main.get_command(app)), ids=" ".join)
def test_every_command_explains_itself(path: tuple[str, ...]) -> None:
    result = run(*path, "--help")
    assert "Usage: " in result.stdout
    assert result.stdout == run(*path, "-h").stdout


def test_a_command_that_does_not_exist_is_a_usage_error() -> None:
    assert "No such command 'fly'" in run("fly", code=2).stderr


def test_the_list_shows_what_is_served(shelf: Shelf) -> None:
    listed = run("artifacts", "list", "--store", shelf.store).stdout
    lines = {key: line for line in listed.splitlines() for key in ("tiny/1", "photos/1") if key in line}
    assert "serving" in lines["tiny/1"]
    assert "dual + cross" in lines["tiny/1"]
    assert "serving" in lines["photos/1"]
    assert "36 images, 72 captions" in lines["photos/1"]


def test_verify_finds_every_version_whole_or_names_the_broken_file(shelf: Shelf, copy: Path) -> None:
    assert run("artifacts", "verify", "--store", shelf.store).stdout.splitlines() == [
        "model tiny/1: whole",
        "index photos/1: whole",
    ]
    (copy / "models/tiny/1/text.onnx").write_bytes(b"")
    assert "text.onnx has 0 bytes" in fails("artifacts", "verify", "--store", copy)


def test_publish_numbers_anew_and_serves_what_fits(copy: Path, tiny_model: Path) -> None:
    assert "published model tiny/1" in run("publish", tiny_model, "--store", copy).stdout  # the same: nothing changes
    done = run("publish", tiny_model, "--renumber", "--store", copy)
    assert "published model tiny/2" in done.stdout
    assert "serving model tiny/2 with index photos/1" in done.stdout  # equal towers, equal fingerprints
    current = ArtifactStore(copy).current()
    assert current is not None
    assert (current.model, current.index) == ("tiny/2", "photos/1")
    run("publish", tiny_model, "--renumber", "--no-activate", "--store", copy)
    assert ArtifactStore(copy).current() == current


def test_a_model_is_served_without_an_index_until_there_is_one(tiny_model: Path, tmp_path: Path) -> None:
    for version in (1, 2):
        done = run("publish", tiny_model, "--renumber", "--store", tmp_path / "new")
        assert done.stdout.endswith(f"serving model tiny/{version} without an index\n")
    assert "nothing is indexed" in fails("search", "text", "a dog", "--store", tmp_path / "new")


def test_activate_roll_back_and_prune(copy: Path, tiny_model: Path, tmp_path: Path) -> None:
    for version in ("2", "3", "4"):
        later = shutil.copytree(tiny_model, tmp_path / version)
        run(
            "publish", described(later, version=version, created_at=datetime.now(UTC)), "--no-activate", "--store", copy
        )
    run("artifacts", "activate", "tiny/3", "photos/1", "--store", copy)
    assert run("artifacts", "rollback", "--store", copy).stdout == "serving model tiny/1 with index photos/1\n"
    assert run("artifacts", "rollback", "--store", copy).stdout == "serving model tiny/1 without an index\n"
    assert "no earlier deployment" in fails("artifacts", "rollback", "--store", copy)
    removed = run("artifacts", "prune", "--keep", 1, "--store", copy).stdout.splitlines()
    assert removed == ["deleted model tiny/2", "deleted model tiny/3"]
    assert run("artifacts", "prune", "--store", copy).stdout == "nothing to delete\n"
    assert "has no manifest.json" in fails("artifacts", "activate", "tiny/3", "photos/1", "--store", copy)


def test_an_index_that_is_built_again_unchanged_is_not_published_twice(shelf: Shelf) -> None:
    done = run(
        *("index", "build", "--img-dir", shelf.photos, "--index-dir", shelf.work, "--store", shelf.store),
        "--no-activate",
    )
    assert "index photos/1 is published" in done.stdout


@pytest.mark.parametrize("model_type", ["dual", "cross"])
def test_a_text_finds_pictures(shelf: Shelf, model_type: str) -> None:
    done = run("search", "text", CAPTION, "--model_type", model_type, "-k", 3, "--json", "--store", shelf.store)
    answer = json.loads(done.stdout)
    assert (answer["query"], answer["model_type"]) == (CAPTION, model_type)
    assert (answer["model_version"], answer["index_version"]) == ("tiny/1", "photos/1")
    scores = [result["score"] for result in answer["results"]]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert all((shelf.photos / result["image_name"]).is_file() for result in answer["results"])
    table = run("search", "text", CAPTION, "--model-type", model_type, "--k", 3, "--store", shelf.store).stdout
    assert re.findall(r"[\w-]+\.jpg", table) == [r["image_name"] for r in answer["results"]]


@pytest.mark.parametrize("model_type", ["dual", "cross"])
def test_a_picture_finds_captions(shelf: Shelf, model_type: str) -> None:
    photo = shelf.photos / "ball-red-green.jpg"
    done = run("search", "image", photo, "--model_type", model_type, "-k", 4, "--json", "--store", shelf.store)
    answer = json.loads(done.stdout)
    assert answer["query_image"] == photo.name
    captions = [result["caption"] for result in answer["results"]]
    assert len(set(captions)) == 4
    table = run("search", "image", photo, "--model_type", model_type, "-k", 4, "--store", shelf.store).stdout
    assert all(caption in table for caption in captions)


@pytest.mark.parametrize("model_type", ["dual", "cross"])
@pytest.mark.parametrize("question", [("text", CAPTION), ("image", "ball-red-green.jpg")])
def test_the_tail_can_be_cut(shelf: Shelf, model_type: str, question: tuple[str, str]) -> None:
    asked = ("search", question[0], question[1] if question[0] == "text" else shelf.photos / question[1])
    options = ("--model_type", model_type, "-k", 8, "--store", shelf.store)

    def answer(*cut: object) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(run(*asked, *options, "--json", *cut).stdout)
        return found

    everything = answer()
    scores = [result["score"] for result in everything["results"]]
    assert (len(scores), everything["left_out"]) == (8, 0)
    for cut, kept in (
        (("--min-score", scores[2]), sum(score >= scores[2] for score in scores)),
        (("--min-score", 1), 0),
        (("--cutoff", "auto"), Cut(cutoff="auto").kept(np.array(scores))),
    ):
        found = answer(*cut)
        assert found["results"] == everything["results"][:kept]
        assert found["left_out"] == 8 - kept
    assert "8 less likely left out" in run(*asked, *options, "--min-score", 1).stdout
    assert "left out" not in run(*asked, *options).stdout


@pytest.mark.parametrize("model_type", ["dual", "cross"])
def test_more_than_there_is_gives_all_there_is(shelf: Shelf, model_type: str) -> None:
    options = ("--model_type", model_type, "-k", 1000, "--json", "--store", shelf.store)
    pictures = json.loads(run("search", "text", CAPTION, *options).stdout)["results"]
    assert len({result["image_id"] for result in pictures}) == len(pictures) == 36
    captions = json.loads(run("search", "image", shelf.photos / "car-red-blue.jpg", *options).stdout)["results"]
    assert len({result["caption"] for result in captions}) == len(captions) == 72


def test_the_page_holds_the_pictures(shelf: Shelf, tmp_path: Path) -> None:
    page = tmp_path / "new folder" / "found.html"
    run("search", "text", "a <b>red</b> ball", "-k", 5, "--html", page, "--store", shelf.store)
    written = page.read_text()
    assert written.count('src="data:image/jpeg;base64,') == 5
    assert "a &lt;b&gt;red&lt;/b&gt; ball" in written
    assert "<b>red</b>" not in written
    assert "http" not in written  # nothing is fetched from anywhere
    run("search", "image", shelf.photos / "car-red-blue.jpg", "-k", 2, "--html", page, "--store", shelf.store)
    assert page.read_text().count("<tr>") == 2
    assert page.read_text().count('src="data:image/jpeg;base64,') == 1


@pytest.mark.parametrize("suffix", [".tiff", ".bmp", ".png", ".gif", ".webp", ".jpg"])
def test_the_page_shows_every_picture_in_a_format_that_browsers_know(shelf: Shelf, tmp_path: Path, suffix: str) -> None:
    photo, page = tmp_path / f"photo{suffix}", tmp_path / "page.html"
    with Image.open(shelf.photos / "car-red-blue.jpg") as opened:
        size = opened.size
        opened.save(photo)
    run("search", "image", photo, "-k", 1, "--html", page, "--store", shelf.store)
    (found,) = re.findall(r'src="data:image/(\w+);base64,([^"]+)"', page.read_text())
    with Image.open(io.BytesIO(base64.b64decode(found[1]))) as shown:
        assert shown.get_format_mimetype() == f"image/{found[0]}"
        assert found[0] in {"jpeg", "png", "gif", "webp"}
        assert shown.size == size


@pytest.fixture
def bracketed(tiny_model: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A store over two photos with odd names and many equal captions, and the photos' folder."""
    photos = tmp_path / "photos"
    photos.mkdir()
    rows = []
    for number in range(12):
        name = f"[red]{number} :dog:.png"
        Image.new("RGB", (20, 20), (20 * number, 0, 0)).save(photos / name)
        rows.append({"image": name, "captions": ["a [bold]dog[/]", "a dog"] if number else ["one [/cat]", "a dog"]})
    (photos / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    store = tmp_path / "store"
    run("publish", tiny_model, "--store", store)
    run("index", "build", "--img-dir", photos, "--index-dir", tmp_path / "work", "--store", store)
    return store, photos


def test_brackets_are_text_and_equal_captions_count_once(bracketed: tuple[Path, Path]) -> None:
    store, photos = bracketed
    table = run("search", "text", "[/a] [red]dog", "-k", 12, "--store", store).stdout
    assert "'[/a] [red]dog'" in table
    assert all(f"[red]{number} :dog:.png" in table for number in range(12))
    for model_type in ("dual", "cross"):
        options = ("-k", 3, "--model_type", model_type, "--store", store)
        table = run("search", "image", photos / "[red]3 :dog:.png", *options).stdout
        assert all(table.count(caption) == 1 for caption in ("a [bold]dog[/]", "a dog ", "one [/cat]"))
    assert "[/nothing]" in fails("search", "image", photos / "[/nothing]", "--store", store)


def test_photos_without_captions_answer_a_picture_with_an_empty_list(tiny_model: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (20, 20), "teal").save(photos / "teal.png")
    store = tmp_path / "store"
    done = run(
        "index", "build", "--img_dir", photos, "--ckpt", tiny_model, "--index_dir", tmp_path / "w", "--store", store
    )
    assert "1 photos, 0 captions" in done.stdout
    for model_type in ("dual", "cross"):
        options = ("--model_type", model_type, "--json", "--store", store)
        assert json.loads(run("search", "image", photos / "teal.png", *options).stdout)["results"] == []
        assert len(json.loads(run("search", "text", "teal", *options).stdout)["results"]) == 1
    (photos / "teal.png").write_bytes(b"no photo any more")
    page = tmp_path / "page.html"
    assert "teal.png" in fails("search", "text", "teal", "--html", page, "--store", store)
    (photos / "teal.png").unlink()
    assert "teal.png is not, or no longer, a file" in fails("search", "text", "teal", "--html", page, "--store", store)


@pytest.mark.parametrize("model", ["dual", "cross"])
def test_evaluate_reports_and_writes(shelf: Shelf, tmp_path: Path, model: str) -> None:
    report = tmp_path / "reports" / "test.json"
    done = run(
        *("evaluate", "--data", shelf.photos, "--split", "test", "--model", model, "--depth", 3, "--engine", "onnx"),
        *("--json", report, "--trec", tmp_path / "trec", "--store", shelf.store),
    )
    assert "text to image" in done.stdout
    written = json.loads(report.read_text())
    assert (written["split"], written["artifact"], written["images"]) == ("test", "tiny/1", 6)
    assert (tmp_path / "trec" / f"{model}.t2i.run").stat().st_size > 0


TROUBLE: dict[str, tuple[tuple[Any, ...], str]] = {
    "no store": (("search", "text", "a dog", "--store", "{tmp}/none"), "nothing is indexed in"),
    "empty text": (("search", "text", " ", "--store", "{store}"), "the text is empty"),
    "long text": (("search", "text", "x" * 10_001, "--store", "{store}"), "over the limit of 10,000"),
    "no picture": (("search", "image", "{tmp}/no.jpg", "--store", "{store}"), "no.jpg"),
    "not a picture": (("search", "image", "{photos}/captions.jsonl", "--store", "{store}"), "captions.jsonl: the"),
    "a folder": (("search", "image", "{photos}", "--store", "{store}"), "Is a directory"),
    "no gateway": (("search", "text", "a dog", "--gateway", "http://127.0.0.1:9"), "127.0.0.1:9"),
    "no artifact": (("publish", "{tmp}", "--store", "{tmp}/s"), "is not an artifact: it has no manifest.json"),
    "no model": (("index", "build", "--img_dir", "{photos}", "--store", "{tmp}/s"), "no model is published"),
    "no photos": (("index", "build", "--img_dir", "{tmp}/none", "--store", "{store}"), "is not a folder of photos"),
    "bad ref": (("artifacts", "activate", "../1", "--store", "{store}"), "does not name an artifact"),
    "no version": (("index", "build", "--img_dir", "{photos}", "--model", "a/9", "--store", "{store}"), "a/9"),
    "bad vocabulary": (
        ("index", "build", "--img_dir", "{photos}", "--vocab", "{photos}/captions.jsonl", "--store", "{store}"),
        "captions.jsonl",
    ),
    "no data": (("evaluate", "--data", "{tmp}", "--store", "{store}"), "{tmp}"),
    "bad engine": (("evaluate", "--data", "{photos}", "--engine", "x", "--store", "{store}"), "engine must be auto"),
    "no run": (("export", "{tmp}", "--data", "{photos}"), "does not hold a finished training run"),
    "no dual run": (("train", "cross", "--data", "{photos}", "--dual", "{tmp}", "--out", "{tmp}/o"), "does not hold"),
    "no training data": (("train", "dual", "--data", "{tmp}", "--out", "{tmp}/o"), "{tmp}"),
    "no backbone": (
        *(("train", "dual", "--data", "{photos}", "--out", "{tmp}/o", "--text", "gru", "--image-backbone", "x"),),
        "timm cannot build 'x'",
    ),
    "no weights": (
        ("train", "dual", "--data", "{photos}", "--out", "{tmp}/o", "--text", "gru", "--image-weights", "x"),
        "'x' is neither package, library, none nor a file",
    ),
    "no cuda": (("train", "dual", "--data", "{photos}", "--out", "{tmp}/o", "--device", "cuda:5"), "no CUDA device"),
}


@pytest.mark.parametrize("trouble", TROUBLE)
def test_trouble_ends_in_a_sentence(shelf: Shelf, tmp_path: Path, trouble: str) -> None:
    arguments, says = TROUBLE[trouble]
    places = {"tmp": tmp_path, "store": shelf.store, "photos": shelf.photos}
    filled = [argument.format(**places) for argument in arguments]
    if filled[:2] == ["index", "build"]:
        filled += ["--index-dir", str(tmp_path / "work")]
    assert says.format(**places) in fails(*filled)


@pytest.mark.parametrize(
    "arguments",
    [
        ("search", "text", "a dog", "-k", 0),
        ("search", "text", "a dog", "-k", 10**9),
        ("search", "text", "a dog", "--model_type", "triple"),
        ("search", "text", "a dog", "--min-score", "nan"),
        ("search", "image", "a.jpg", "--min-score", 1.5),
        ("search", "text", "a dog", "--cutoff", "sharp"),
        ("train", "dual", "--data", ".", "--device", "toaster"),
        ("train", "dual", "--data", ".", "--epochs", 0),
        ("artifacts", "prune", "--keep", 0),
        ("index", "build"),
    ],
)
def test_an_option_that_makes_no_sense_is_a_usage_error(arguments: tuple[object, ...]) -> None:
    assert "Usage: " in run(*arguments, code=2).stderr


def test_a_model_without_reranker_cannot_be_asked_to_rerank(copy: Path, shelf: Shelf) -> None:
    store = ArtifactStore(copy)
    manifest = store.path("model", Ref("tiny", "1")) / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"has_reranker": true', '"has_reranker": false'))
    for command in (
        ("search", "text", "a dog", "--model_type", "cross"),
        ("index", "build", "--img_dir", shelf.photos, "--model_type", "cross"),
        ("evaluate", "--data", shelf.photos, "--model", "cross"),
    ):
        assert "has no reranker" in fails(*command, "--store", copy)
