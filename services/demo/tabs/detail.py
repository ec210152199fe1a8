"""One of the pictures that were found: large, with what can be asked about it."""

from __future__ import annotations

from typing import Any

import gradio as gr

from services.demo import render
from services.demo.events import PLAIN, SEARCH
from services.demo.search import Picture, Search
from shared.schemas_v1 import WordMap


class Detail:
    """A panel that shows the picture that is chosen in a gallery; ``more`` is its button for similar ones."""

    def __init__(self, search: Search, text: gr.Textbox) -> None:
        words = search.words
        self._search = search
        self.chosen = gr.State(None)
        maps = gr.State([])
        with gr.Row(visible=False, elem_id="detail") as self.panel:
            with gr.Column(scale=3, min_width=300):
                self._picture = gr.HTML(elem_id="chosen")
            with gr.Column(scale=2, min_width=260):
                with gr.Row():
                    self.more = gr.Button(words.more, size="sm", min_width=120)
                    captions = gr.Button(words.its_captions, size="sm", min_width=120)
                    why = gr.Button(words.why, size="sm", min_width=120)
                    close = gr.Button(words.close, size="sm", min_width=80, elem_id="close")
                self._word = gr.Radio([], label=words.where, visible=False, elem_id="seen")
                self._said = gr.HTML(elem_id="detail-said")
        self._shown = [self.chosen, self.panel, self._picture, self._word, self._said]
        captions.click(search.captions_of, self.chosen, self._said, **SEARCH)
        why.click(self._why, [text, self.chosen], [maps, self._word, self._said, self._picture], **SEARCH)
        self._word.input(self._where, [self._word, maps, self.chosen], [self._picture, self._said], **PLAIN)
        close.click(self._close, None, self._shown, **PLAIN)

    def follow(self, gallery: gr.Gallery, pictures: gr.State) -> None:
        """Show what is chosen in ``gallery``, the state ``pictures`` being what is in it."""

        async def choose(pictures: list[Picture], event: gr.SelectData) -> list[Any]:
            picture = pictures[event.index]
            shown = await self._search.show(picture)
            return [picture, gr.update(visible=True), shown, gr.update(visible=False), ""]

        gallery.select(choose, pictures, self._shown, **PLAIN)

    def close_on(self, event: Any) -> None:
        event.then(self._close, None, self._shown, **PLAIN)

    @staticmethod
    def _close() -> list[Any]:
        return [None, gr.update(visible=False), "", gr.update(visible=False), ""]

    async def _why(self, text: str, picture: Picture) -> list[Any]:
        seen, said = await self._search.seen(text, picture)
        if not seen:
            return [[], gr.update(visible=False), said, gr.skip()]
        names = [word.word for word in seen]
        picture_html, said = await self._where(names[0], seen, picture)
        return [seen, gr.update(choices=names, value=names[0], visible=True), said, picture_html]

    async def _where(self, name: str, maps: list[WordMap], picture: Picture) -> tuple[str, str]:
        word = next(word for word in maps if word.word == name)
        seen = any(weight > 0 for line in word.weights for weight in line)
        said = "" if seen else render.hint(self._search.words.nothing_seen.format(name))
        return await self._search.show(picture, word if seen else None), said
