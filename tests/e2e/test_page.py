"""The page in a real browser, against the real services. Screenshots are left in test-output/page/."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from services.demo.render import moves, percent
from shared.client import Client
from shared.schemas_v1 import Term
from tests.support.demo import demo
from tests.support.stack import ROOT, Stack
from tests.support.store import Prepared

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SCREENSHOTS = ROOT / "test-output" / "page"
EXAMPLES = ("a red ball", "a green car", "the coffee")
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}
EACH_WAY = pytest.mark.parametrize(
    "page",
    [("desktop", "light"), ("desktop", "dark"), ("phone", "light"), ("phone", "dark")],
    indirect=True,
    ids="-".join,
)

expect.set_options(timeout=30_000)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium found: apt install chromium")


@pytest.fixture(scope="module")
def url(stack: Stack) -> Iterator[str]:
    with demo(stack.url("gateway"), examples=json.dumps(EXAMPLES)) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, url: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page, loaded. In the end: it reported no error, and asked nobody but its own server for anything."""
    size: str
    scheme: Literal["light", "dark"]
    size, scheme = getattr(request, "param", ("desktop", "light"))
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda sent: asked.append(sent.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(url)
    expect(page.get_by_text("pictures and")).to_be_visible()
    yield page
    page.screenshot(path=SCREENSHOTS / f"{request.node.name.removeprefix('test_')}.png")
    context.close()
    assert errors == []
    assert [address for address in asked if not address.startswith((url, "data:", "blob:"))] == []


def assert_fits(page: Page) -> None:
    """Nothing is wider than the screen."""
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@EACH_WAY
def test_words_find_pictures(page: Page, client: Client) -> None:
    expected = client.text_to_image("a yellow tree", k=6)
    page.get_by_placeholder("What should the picture show?").fill("a yellow tree")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("#pictures-line")).to_contain_text("6 pictures")
    expect(page.locator("#pictures-line")).to_contain_text(f"model {expected.model_version}")
    tiles = page.locator("#pictures .caption-label")
    expect(tiles).to_have_text([f"{percent(found.score)} · {found.image_name}" for found in expected.results])
    for picture in page.locator("#pictures .grid-wrap img").all():
        expect(picture).to_have_js_property("complete", True)
        assert picture.evaluate("image => image.naturalWidth") > 0
    assert_fits(page)


def test_an_example_and_the_cross_model_and_the_number_of_results(page: Page) -> None:
    page.get_by_role("button", name=EXAMPLES[1]).click()
    expect(page.get_by_placeholder("What should the picture show?")).to_have_value(EXAMPLES[1])
    expect(page.locator("#pictures-line")).to_contain_text("6 pictures")
    page.get_by_label("Cross-attention").first.check()
    expect(page.locator("#pictures-line")).to_contain_text("Cross-attention")
    slider = page.locator("input[type=range]").first
    slider.fill("3")
    slider.dispatch_event("pointerup")
    expect(page.locator("#pictures-line")).to_contain_text("3 pictures")
    expect(page.locator("#pictures .caption-label")).to_have_count(3)


@EACH_WAY
def test_only_likely_matches(page: Page, client: Client) -> None:
    """The tick takes the tail of pictures and captions away, and gives it back."""
    expected = client.text_to_image(EXAMPLES[0], k=6, cutoff="auto")
    page.get_by_role("button", name=EXAMPLES[0]).click()
    expect(page.locator("#pictures-line")).to_contain_text("6 pictures")
    page.get_by_label("Only likely matches").first.check()
    expect(page.locator("#pictures-line")).to_contain_text(f"{len(expected.results)} picture")
    expect(page.locator("#pictures .caption-label")).to_have_count(len(expected.results))
    if expected.left_out:
        expect(page.locator("#pictures-line")).to_contain_text(f"{expected.left_out} less likely left out")
    assert_fits(page)
    page.get_by_label("Only likely matches").first.uncheck()
    expect(page.locator("#pictures .caption-label")).to_have_count(6)


@EACH_WAY
def test_both_models_side_by_side_and_what_reranking_moved(page: Page, client: Client) -> None:
    dual, cross = (client.text_to_image(EXAMPLES[0], k=6, model_type=model) for model in ("dual", "cross"))
    moved = moves([found.image_id for found in dual.results], [found.image_id for found in cross.results])
    page.get_by_role("button", name=EXAMPLES[0]).click()
    page.get_by_label("Side by side").check()
    expect(page.locator("#pictures-cross .caption-label")).to_have_text(
        [
            f"{move} · {percent(found.score)} · {found.image_name}"
            for move, found in zip(moved, cross.results, strict=True)
        ]
    )
    expect(page.locator("#pictures-cross-line")).to_contain_text("Cross-attention")
    expect(page.locator("#pictures .caption-label")).to_have_text(
        [f"{percent(found.score)} · {found.image_name}" for found in dual.results]
    )
    assert_fits(page)
    page.get_by_label("Dual encoder").first.check()
    expect(page.locator("#pictures-cross")).to_be_hidden()


def test_the_address_keeps_what_is_shown(page: Page, browser: Browser) -> None:
    page.get_by_placeholder("What should the picture show?").fill("a red & blue ball")
    page.keyboard.press("Enter")
    expect(page.locator("#pictures-line")).to_contain_text("6 pictures")
    page.get_by_label("Cross-attention").first.check()
    expect(page.locator("#pictures-line")).to_contain_text("Cross-attention")
    expect(page).to_have_url(re.compile(r"\?q=a\+red\+%26\+blue\+ball&by=cross&k=6$"))
    other = browser.new_page()
    other.goto(page.url)
    expect(other.get_by_placeholder("What should the picture show?")).to_have_value("a red & blue ball")
    expect(other.locator("#pictures-line")).to_contain_text("Cross-attention")
    expect(other.locator("#pictures .caption-label")).to_have_text(
        page.locator("#pictures .caption-label").all_inner_texts()
    )
    other.goto(f"{page.url.partition('?')[0]}?q=%20&by=nonsense&k=99999&likely=maybe")
    expect(other.get_by_text("pictures and")).to_be_visible()
    other.close()


@EACH_WAY
def test_the_page_in_chinese(page: Page) -> None:
    page.get_by_role("link", name="中文").click()
    expect(page.get_by_text("以文搜图")).to_be_visible()
    page.get_by_placeholder("图片里应该有什么").fill(EXAMPLES[0])
    page.get_by_role("button", name="搜索").click()
    expect(page.locator("#pictures-line")).to_contain_text("6 张图片")
    expect(page.locator("#pictures .caption-label")).to_have_count(6)
    assert_fits(page)


@EACH_WAY
def test_pictures_are_added_and_found(page: Page, client: Client, tmp_path: Path) -> None:
    """One that is new, one that is no picture; the first can be searched at once."""
    new, broken = tmp_path / "stripes.png", tmp_path / "broken.jpg"
    Image.effect_noise((120, 90), 80).convert("RGB").save(new)
    broken.write_bytes(b"\xff\xd8\xff\xe0 not a photo")
    page.get_by_role("tab", name="Add pictures").click()
    page.locator("#files input[type=file]").set_input_files([new, broken])
    page.get_by_label("What they show").fill("grey noise on an old screen\n\nan untuned television")
    page.get_by_label("Tags").fill("noise, test")
    page.get_by_role("button", name="Add to the collection").click()
    expect(page.locator("#added")).to_contain_text("1 of 2 are in the collection")
    expect(page.locator("#added li.failed")).to_contain_text("broken.jpg")
    expect(page.locator("#added li.failed")).to_contain_text("not an image that can be read")
    (stored,) = [one for one in client.images() if one.name == "stripes.png"]
    try:
        assert stored.captions == ["grey noise on an old screen", "an untuned television"]
        assert stored.tags == ["noise", "test"]
        assert_fits(page)
        (found,) = client.text_to_image("noise", tags=["noise", "test"]).results
        assert found.image_id == stored.id
        page.get_by_role("tab", name="Find pictures").click()
        expect(page.locator("#collection")).to_contain_text("16 pictures and 62 captions")
    finally:
        client.remove_image(stored.id)


@EACH_WAY
def test_a_picture_in_detail(page: Page, client: Client) -> None:
    """Large; where words are seen in it; its captions; more like it."""
    page.get_by_role("button", name=EXAMPLES[0]).click()
    tiles = page.locator("#pictures .thumbnail-lg")
    expect(tiles).to_have_count(6)
    best = client.text_to_image(EXAMPLES[0], k=1).results[0]
    tiles.first.click()
    expect(page.locator("#chosen figcaption")).to_have_text(best.image_name)
    expect(page.locator("#chosen img")).to_have_js_property("complete", True)
    page.get_by_role("button", name="Why this one?").click()
    explained = client.explain(EXAMPLES[0], best.image_id)
    words = explained.words
    expect(page.locator("#seen label")).to_have_count(len(words))
    page.locator("#seen").get_by_label("ball").check()
    assert_fits(page)
    if any(weight for word in words if word.word == "ball" for line in word.weights for weight in line):
        expect(page.locator("#chosen svg.heat g rect")).to_have_count(explained.rows * explained.columns)
        picture, heat = (page.locator(f"#chosen {part}").bounding_box() for part in ("img", "svg.heat"))
        assert picture is not None and picture == pytest.approx(heat, abs=1)
    page.screenshot(path=SCREENSHOTS / f"why-{page.viewport_size['width'] if page.viewport_size else 0}.png")
    page.get_by_role("button", name="Its captions").click()
    captions = client.stored_image(best.image_id).captions
    expect(page.locator("#detail-said li")).to_have_text(captions)
    page.get_by_role("button", name="More like this").click()
    expect(page.locator("#pictures-line")).to_contain_text(f"More like {best.image_name}")
    alike = [found.image_name for found in client.search(Term(id=best.image_id), k=6).results]
    for tile, name in zip(page.locator("#pictures .caption-label").all(), alike, strict=True):
        expect(tile).to_contain_text(str(name))
    expect(page.locator("#detail")).to_be_hidden()


@EACH_WAY
def test_words_a_picture_and_what_to_avoid_are_asked_as_one(page: Page, client: Client, prepared: Prepared) -> None:
    photo = prepared.photos / "coffee.png"
    terms = [Term(text="a red ball"), Term(image=photo.read_bytes(), weight=1), Term(text="a car", weight=-0.5)]
    expected = client.search(*terms, k=6)
    page.get_by_placeholder("What should the picture show?").fill("a red ball")
    page.get_by_role("button", name="Combine").click()
    page.locator("#like input[type=file]").set_input_files(photo)
    expect(page.locator("#like img")).to_be_visible()
    page.locator("#avoid").get_by_label("Without").fill("a car")
    page.keyboard.press("Enter")
    expect(page.locator("#pictures .caption-label")).to_have_text(
        [f"{found.similarity:.2f} · {found.image_name}" for found in expected.results]
    )
    assert_fits(page)


@EACH_WAY
def test_a_picture_finds_captions(page: Page, client: Client, prepared: Prepared) -> None:
    photo = prepared.photos / "coffee.png"
    expected = client.image_to_text(photo, k=6)
    page.get_by_role("tab", name="Find captions").click()
    page.locator("#picture input[type=file]").set_input_files(photo)
    expect(page.locator("#captions-line")).to_contain_text("6 captions")
    expect(page.locator("#captions .caption")).to_have_text([found.caption for found in expected.results])
    assert_fits(page)


def test_a_picture_of_the_collection_finds_captions(page: Page) -> None:
    page.get_by_role("tab", name="Find captions").click()
    page.locator("#samples .thumbnail-lg").first.click()
    expect(page.locator("#captions-line")).to_contain_text("6 captions")
    expect(page.locator("#picture img").first).to_be_visible()


def test_a_file_that_is_no_picture_is_a_sentence(page: Page, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 not a photo")
    page.get_by_role("tab", name="Find captions").click()
    page.locator("#picture input[type=file]").set_input_files(broken)
    expect(page.get_by_role("alert")).to_contain_text("not an image that can be read")


def test_no_words_are_a_hint(page: Page) -> None:
    page.get_by_role("button", name="Search").click()
    expect(page.locator("#pictures-line")).to_contain_text("Type what the picture should show")


def test_a_gateway_that_is_away_is_a_sentence_and_comes_back(page: Page, stack: Stack) -> None:
    stack.kill("gateway")
    try:
        page.get_by_placeholder("What should the picture show?").fill("a blue ball")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("The gateway cannot be reached")
        page.screenshot(path=SCREENSHOTS / "gateway-away.png")
    finally:
        stack.restart("gateway")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("#pictures-line")).to_contain_text("6 pictures")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_the_gateway_s_docs_work_without_any_other_host(browser: Browser, stack: Stack) -> None:
    """A route opened and tried out, as a reader does."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda sent: asked.append(sent.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(f"{stack.url('gateway')}/docs")
    page.get_by_role("button", name="POST /text-to-image").first.click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table .response .response-col_status")).to_contain_text("200")
    page.screenshot(path=SCREENSHOTS / "docs.png")
    page.close()
    assert errors == []
    assert any(address.endswith("/text-to-image") for address in asked)
    assert [address for address in asked if not address.startswith((stack.url("gateway"), "data:", "blob:"))] == []
