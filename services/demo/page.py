"""The page in one language: a header, and a tab for each thing that it does."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib import resources

import gradio as gr

from services.demo.events import PLAIN
from services.demo.search import Search
from services.demo.tabs.adding import adding_tab
from services.demo.tabs.captions import captions_tab
from services.demo.tabs.pictures import pictures_tab
from services.demo.words import LANGUAGES, Words

CSS = resources.files("services.demo").joinpath("page.css").read_text(encoding="utf-8")
HEAD = '<meta name="color-scheme" content="light dark">'
# Names of fonts that every system has: the page loads nothing from anywhere else.
_SANS = (
    *("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Helvetica Neue"),
    *("PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif"),
)
_MONO = ("ui-monospace", "SFMono-Regular", "Consolas", "monospace")
_HEADER = """
<div class="brand">
  <svg viewBox="0 0 32 32" aria-hidden="true"><rect x="2" y="5" width="13" height="22" rx="2"/>
  <rect x="17" y="5" width="13" height="22" rx="2" class="wing"/></svg>
  <div><h1>Diptych</h1><p>{slogan} {links}</p></div>
</div>
"""


def theme() -> gr.themes.Base:
    return gr.themes.Soft(primary_hue="teal", secondary_hue="teal", neutral_hue="slate", font=_SANS, font_mono=_MONO)


def build(search: Search, examples: Sequence[str], max_results: int, *, adding: bool) -> gr.Blocks:
    """The page's components and what happens between them. With ``adding`` it takes pictures into the collection."""
    words = search.words
    blocks = gr.Blocks(title="Diptych", analytics_enabled=False, delete_cache=(3600, 3600))
    with blocks:
        with gr.Row(elem_id="header"):
            gr.HTML(_header(words))
            collection = gr.HTML(elem_id="collection")
        with gr.Tabs() as tabs:
            with gr.Tab(words.find_pictures, id="pictures"):
                pictures_tab(blocks, search, examples, max_results)
            with gr.Tab(words.find_captions, id="captions"):
                captions_tab(blocks, search, examples, max_results)
            if adding:
                with gr.Tab(words.add_pictures, id="adding"):
                    adding_tab(search)
        gr.on([blocks.load, tabs.change], search.collection, None, collection, **PLAIN)
    blocks.queue(default_concurrency_limit=16)
    return blocks


def _header(words: Words) -> str:
    links = " ".join(
        f'<a href="{one.path.rstrip("/")}/?language={one.language}" hreflang="{one.language}">{one.other}</a>'
        for one in LANGUAGES
        if one is not words
    )
    return _HEADER.format(slogan=escape(words.slogan), links=links)
