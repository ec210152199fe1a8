"""Pictures by words, by pictures, and by both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from services.demo import render
from services.demo.events import PLAIN, SEARCH
from services.demo.search import Found, Picture, Search, Wanted
from services.demo.tabs.detail import Detail
from services.demo.tabs.options import options

# The address in the browser says what is shown, so that it can be kept and sent to others.
_TO_ADDRESS = """(q, by, k, likely, like, weight, without) => {
    const address = new URL(window.location);
    for (const [name, value] of Object.entries({q, by, k, likely: likely ? 1 : "", without}))
        value ? address.searchParams.set(name, value) : address.searchParams.delete(name);
    window.history.replaceState(null, "", address);
}"""


def pictures_tab(blocks: gr.Blocks, search: Search, examples: Sequence[str], max_results: int) -> None:
    """With ``?q=...`` in the address (``by``, ``k``, ``likely`` and ``without`` if need be) it searches when the page
    loads."""
    words = search.words
    text = gr.Textbox(
        "",
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
    with gr.Accordion(words.combine, open=False, elem_id="combine"), gr.Row():
        like = gr.Image(
            type="filepath", sources=["upload", "clipboard"], label=words.like, height=200, buttons=[], elem_id="like"
        )
        like.preprocess = lambda payload: payload.path if payload else None  # type: ignore[method-assign]
        with gr.Column(min_width=260):
            weight = gr.Slider(0.1, 3, value=1, step=0.1, label=words.weight, buttons=[])
            avoid = gr.Textbox("", label=words.avoid, max_length=10_000, elem_id="avoid")
    detail = Detail(search, text)
    with gr.Row(elem_id="pictures-row"):
        with gr.Column(min_width=280):
            first = _Results("pictures", detail)
        with gr.Column(min_width=280, visible=False) as beside:
            second = _Results("pictures-cross", detail)
    asked = [text, model_type, k, only_likely, like, weight, avoid]
    outputs = [beside, *first.outputs, *second.outputs]

    async def find(*values: Any) -> list[Any]:
        found, *others = await search.pictures(Wanted(*values))
        other = others[0] if others else None
        columns = 2 if other else 3
        return [gr.update(visible=other is not None), *_shown(found, columns), *_shown(other, columns)]

    async def more(picture: Picture, k: int) -> list[Any]:
        return [gr.update(visible=False), *_shown(await search.more_like(picture, k), 3), *_shown(None, 3)]

    async def from_address(request: gr.Request) -> list[Any]:
        wanted = _wanted(dict(request.query_params), max_results)
        if not wanted.text.strip():  # somebody may be typing already
            return [gr.skip()] * len([*asked, *outputs])
        values = [wanted.text, wanted.ranked_by, wanted.k, wanted.only_likely, None, 1, wanted.avoid]
        return [*values, *(await find(*values))]

    changed = [text.submit, avoid.submit, model_type.input, k.release, only_likely.input, like.input, weight.release]
    for event in (
        gr.on(changed, find, asked, outputs, **SEARCH),
        chips.click(lambda sample: sample[0], chips, text, **PLAIN).then(find, asked, outputs, **SEARCH),
    ):
        detail.close_on(event.then(None, asked, None, js=_TO_ADDRESS, **PLAIN))
    detail.close_on(detail.more.click(more, [detail.chosen, k], outputs, **SEARCH))
    blocks.load(from_address, None, [*asked, *outputs], **PLAIN)


class _Results:
    """A gallery under a line; what is chosen in it is shown in detail."""

    def __init__(self, name: str, detail: Detail) -> None:
        line = gr.HTML(elem_id=f"{name}-line")
        gallery = gr.Gallery(
            show_label=False,
            columns=3,
            height="auto",
            object_fit="cover",
            interactive=False,
            allow_preview=False,
            buttons=[],
            elem_id=name,
            elem_classes="pictures",
        )
        pictures = gr.State([])
        self.outputs = [line, gallery, pictures]
        detail.follow(gallery, pictures)


def _shown(found: Found | None, columns: int) -> list[Any]:
    if found is None:
        return ["", [], []]
    files = [(picture.path, picture.caption) for picture in found.pictures]
    return [found.line, gr.update(value=files, columns=columns), list(found.pictures)]


def _wanted(asked: dict[str, str], max_results: int) -> Wanted:
    """What an address asks for. What makes no sense in it is passed over."""
    by, many = asked.get("by"), asked.get("k", "")
    return Wanted(
        asked.get("q", "")[:10_000],
        "cross" if by == "cross" else "both" if by == "both" else "dual",
        min(max(int(many[:9]), 1), max_results) if many.isdecimal() else min(6, max_results),
        asked.get("likely") == "1",
        avoid=asked.get("without", "")[:10_000],
    )
