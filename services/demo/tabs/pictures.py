"""Pictures by words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from services.demo import render
from services.demo.events import PLAIN, SEARCH
from services.demo.search import Ranked, Search
from services.demo.tabs.options import options

# The address in the browser says what is shown, so that it can be kept and sent to others.
_TO_ADDRESS = """(q, by, k, likely) => {
    const address = new URL(window.location);
    for (const [name, value] of Object.entries({q, by, k, likely: likely ? 1 : ""}))
        value ? address.searchParams.set(name, value) : address.searchParams.delete(name);
    window.history.replaceState(null, "", address);
}"""


def pictures_tab(blocks: gr.Blocks, search: Search, examples: Sequence[str], max_results: int) -> None:
    """With ``?q=...`` in the address (``by``, ``k`` and ``likely`` if need be) it searches when the page loads."""
    words = search.words
    text = gr.Textbox(
        label=words.placeholder,
        show_label=False,
        placeholder=words.placeholder,
        submit_btn=words.search,
        max_length=10_000,
        autofocus=True,
        elem_id="words",
    )
    if words.only_english:
        gr.HTML(render.hint(words.only_english))
    chips = gr.Dataset(
        components=[text], samples=[[example] for example in examples], label=words.examples, elem_id="examples"
    )
    model_type, k, only_likely = options(words, max_results, both=True)
    with gr.Row(elem_id="pictures-row"):
        with gr.Column(min_width=280):
            line, found = _results("pictures")
        with gr.Column(min_width=280, visible=False) as beside:
            other_line, other_found = _results("pictures-cross")

    async def pictures(text: str, ranked_by: Ranked, k: int, only_likely: bool) -> list[Any]:
        first, *others = await search.pictures(text, ranked_by, k, only_likely)
        columns = 2 if others else 3
        shown: list[Any] = [gr.update(visible=bool(others))]
        for one in (first, others[0] if others else None):
            files = [(picture.path, picture.caption) for picture in one.pictures] if one else []
            shown += [one.line if one else "", gr.update(value=files, columns=columns)]
        return shown

    asked: dict[str, Any] = {
        "inputs": [text, model_type, k, only_likely],
        "outputs": [beside, line, found, other_line, other_found],
        **SEARCH,
    }
    searched = [
        gr.on([text.submit, model_type.input, k.release, only_likely.input], pictures, **asked),
        chips.click(lambda sample: sample[0], chips, text, **PLAIN).then(pictures, **asked),
    ]
    for event in searched:
        event.then(None, asked["inputs"], None, js=_TO_ADDRESS, **PLAIN)

    async def from_address(request: gr.Request) -> list[Any]:
        asked = request.query_params
        by, many = asked.get("by", "dual"), asked.get("k", "")
        k = min(max(int(many), 1), max_results) if many.isdecimal() else min(6, max_results)
        values: tuple[str, Ranked, int, bool] = (
            asked.get("q", "")[:10_000],
            "cross" if by == "cross" else "both" if by == "both" else "dual",
            k,
            asked.get("likely") == "1",
        )
        shown = await pictures(*values) if values[0].strip() else [gr.skip()] * len(outputs)
        return [*values, *shown]

    outputs = asked["outputs"]
    blocks.load(from_address, None, [*asked["inputs"], *outputs], **PLAIN)


def _results(name: str) -> tuple[gr.HTML, gr.Gallery]:
    line = gr.HTML(elem_id=f"{name}-line")
    found = gr.Gallery(
        show_label=False,
        columns=3,
        height="auto",
        object_fit="cover",
        interactive=False,
        buttons=["fullscreen"],
        elem_id=name,
        elem_classes="pictures",
    )
    return line, found
