"""Captions by a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from services.demo import render
from services.demo.events import PLAIN, SEARCH
from services.demo.search import Search
from services.demo.tabs.options import options


def captions_tab(blocks: gr.Blocks, search: Search, examples: Sequence[str], max_results: int) -> None:
    words = search.words
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
                label=words.picture,
                show_label=False,
                height=300,
                buttons=[],
                elem_id="picture",
            )
            # The gateway gets the file as it was uploaded, and it is the gateway that says what is wrong with it.
            picture.preprocess = lambda payload: payload.path if payload else None  # type: ignore[method-assign]
            gr.HTML(render.hint(words.or_sample))
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
            model_type, k, only_likely = options(words, max_results, both=False)
        with gr.Column(scale=3, min_width=320):
            line = gr.HTML(elem_id="captions-line")
            found = gr.HTML(elem_id="captions")
    asked: dict[str, Any] = {"inputs": [picture, model_type, k, only_likely], "outputs": [found, line], **SEARCH}
    gr.on([picture.input, model_type.input, k.release, only_likely.input], search.captions, **asked)
    samples.select(choose, shown, picture, **PLAIN).then(search.captions, **asked)
    blocks.load(show_samples, None, [shown, samples], **PLAIN)
