"""The page: one tab for each direction of search."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import gradio as gr

from services.demo import render
from services.demo.search import Search
from shared.schemas import ModelType

CSS = resources.files("services.demo").joinpath("page.css").read_text(encoding="utf-8")
HEAD = '<meta name="color-scheme" content="light dark">'
# Names of fonts that every system has: the page loads nothing from anywhere else.
_SANS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Helvetica Neue", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Consolas", "monospace")
_HEADER = """
<div class="brand">
  <svg viewBox="0 0 32 32" aria-hidden="true"><rect x="2" y="5" width="13" height="22" rx="2"/>
  <rect x="17" y="5" width="13" height="22" rx="2" class="wing"/></svg>
  <div><h1>Diptych</h1><p>Find pictures by words, and words by pictures.</p></div>
</div>
"""


def theme() -> gr.themes.Base:
    return gr.themes.Soft(primary_hue="teal", secondary_hue="teal", neutral_hue="slate", font=_SANS, font_mono=_MONO)


def build(search: Search, examples: Sequence[str], max_results: int) -> gr.Blocks:
    """The page's components and what happens between them."""
    blocks = gr.Blocks(title="Diptych", analytics_enabled=False, delete_cache=(3600, 3600))
    with blocks:
        with gr.Row(elem_id="header"):
            gr.HTML(_HEADER)
            collection = gr.HTML(elem_id="collection")
        with gr.Tabs():
            with gr.Tab("Find pictures", id="pictures"):
                _pictures_tab(search, examples, max_results)
            with gr.Tab("Find captions", id="captions"):
                show_samples = _captions_tab(search, examples, max_results)
        gr.on(blocks.load, search.collection, None, collection, **_PLAIN)
        gr.on(blocks.load, **show_samples)
    blocks.queue(default_concurrency_limit=16)
    return blocks


# An event that belongs to the page and not to a programmer's interface, and shows no spinner over what it fills.
_PLAIN: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
_SEARCH: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal", "trigger_mode": "always_last"}


def _options(max_results: int) -> tuple[gr.Radio, gr.Slider, gr.Checkbox]:
    with gr.Row(elem_classes="options"):
        model_type = gr.Radio(
            [(title, name) for name, title in render.MODELS.items()], value="dual", label="Model", min_width=260
        )
        k = gr.Slider(1, max_results, value=min(6, max_results), step=1, label="Results", min_width=200, buttons=[])
        only_likely = gr.Checkbox(False, label="Only likely matches", min_width=160)
    return model_type, k, only_likely


def _pictures_tab(search: Search, examples: Sequence[str], max_results: int) -> None:
    text = gr.Textbox(
        label="Words",
        show_label=False,
        placeholder="What should the picture show?",
        submit_btn="Search",
        max_length=10_000,
        autofocus=True,
        elem_id="words",
    )
    chips = gr.Dataset(
        components=[text], samples=[[example] for example in examples], label="Try one of these", elem_id="examples"
    )
    model_type, k, only_likely = _options(max_results)
    line = gr.HTML(elem_id="pictures-line")
    found = gr.Gallery(
        show_label=False,
        columns=3,
        height="auto",
        object_fit="cover",
        interactive=False,
        buttons=["fullscreen"],
        elem_id="pictures",
    )

    async def pictures(
        text: str, model_type: ModelType, k: int, only_likely: bool
    ) -> tuple[list[tuple[Path, str]], str]:
        pictures, line = await search.pictures(text, model_type, k, only_likely)
        return [(picture.path, picture.caption) for picture in pictures], line

    asked: dict[str, Any] = {"inputs": [text, model_type, k, only_likely], "outputs": [found, line], **_SEARCH}
    gr.on([text.submit, model_type.input, k.release, only_likely.input], pictures, **asked)
    chips.click(lambda sample: sample[0], chips, text, **_PLAIN).then(pictures, **asked)


def _captions_tab(search: Search, examples: Sequence[str], max_results: int) -> dict[str, Any]:
    """Returns the event that fills in the collection's own pictures, to be run when the page loads."""
    shown = gr.State([])

    async def show_samples() -> tuple[list[Path], dict[str, Any]]:
        paths = [sample.path for sample in await search.samples(examples)]
        return paths, gr.update(value=paths, visible=bool(paths))

    def choose(paths: list[Path], chosen: gr.SelectData) -> Path:
        path: Path = paths[chosen.index]
        return path

    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            picture = gr.Image(
                type="filepath",
                sources=["upload", "clipboard", "webcam"],
                label="Picture",
                show_label=False,
                height=300,
                buttons=[],
                elem_id="picture",
            )
            # The gateway gets the file as it was uploaded, and it is the gateway that says what is wrong with it.
            picture.preprocess = lambda payload: payload.path if payload else None  # type: ignore[method-assign]
            gr.HTML(render.hint("Or one of the collection:"))
            samples = gr.Gallery(
                show_label=False,
                columns=len(examples) or 1,
                height="auto",
                object_fit="cover",
                allow_preview=False,
                interactive=False,
                buttons=[],
                visible=False,
                elem_id="samples",
            )
            model_type, k, only_likely = _options(max_results)
        with gr.Column(scale=3, min_width=320):
            line = gr.HTML(elem_id="captions-line")
            found = gr.HTML(elem_id="captions")
    asked: dict[str, Any] = {"inputs": [picture, model_type, k, only_likely], "outputs": [found, line], **_SEARCH}
    gr.on([picture.input, model_type.input, k.release, only_likely.input], search.captions, **asked)
    samples.select(choose, shown, picture, **_PLAIN).then(search.captions, **asked)
    return {"fn": show_samples, "inputs": None, "outputs": [shown, samples], **_PLAIN}
