"""Pictures into the collection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import gradio as gr

from services.demo.events import SEARCH
from services.demo.search import Search

_PROGRESS = gr.Progress()


def adding_tab(search: Search) -> None:
    words = search.words
    files = gr.File(label=words.files, file_count="multiple", height=180, elem_id="files")
    with gr.Row():
        captions = gr.Textbox(label=words.caption_of_all, lines=2, max_length=10_000, elem_id="own-captions")
        tags = gr.Textbox(label=words.tags, max_length=1_000, elem_id="own-tags")
    button = gr.Button(words.add, variant="primary", elem_id="add")
    said = gr.HTML(elem_id="added")

    async def add(
        paths: list[str] | None, captions: str, tags: str, progress: gr.Progress = _PROGRESS
    ) -> AsyncIterator[str]:
        chosen = paths or []
        if chosen:
            progress((0, len(chosen)), desc=words.adding.format(Path(chosen[0]).name))
        async for done, html in search.add(chosen, captions, tags):
            if done < len(chosen):
                progress((done, len(chosen)), desc=words.adding.format(Path(chosen[done]).name))
            yield html

    button.click(add, [files, captions, tags], said, **{**SEARCH, "show_progress": "full", "trigger_mode": "once"})
