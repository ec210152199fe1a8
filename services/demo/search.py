"""What the page does: asks the gateway, and turns answers and failures into what its components show."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.demo import render
from services.demo.thumbnails import Thumbnails
from shared.client import AsyncClient, DiptychError
from shared.schemas import Cutoff, ModelType


@dataclass(frozen=True)
class Picture:
    """A photo of the collection: the file of its thumbnail, and a line of text."""

    path: Path
    caption: str


class Search:
    """The page's actions. None of them raises for a gateway that is away or refuses: the sentence is in the HTML."""

    def __init__(self, client: AsyncClient, thumbnails: Thumbnails) -> None:
        self._client = client
        self._thumbnails = thumbnails

    async def collection(self) -> str:
        """HTML: what is being searched, and with which model."""
        try:
            return render.collection(await self._client.models())
        except DiptychError as error:
            return render.problem(error)

    async def pictures(self, text: str, model_type: ModelType, k: int, only_likely: bool) -> tuple[list[Picture], str]:
        """Photos that match the text, best first, and the HTML of the line above them."""
        if not text.strip():
            return [], render.hint("Type what the picture should show, or choose an example.")
        try:
            answer = await self._client.text_to_image(text, int(k), model_type, cutoff=_cutoff(only_likely))
            shown = [
                (found.image_id, f"{render.percent(found.score)} · {found.image_name}") for found in answer.results
            ]
            pictures = await self._pictures(shown)
        except DiptychError as error:
            return [], render.problem(error)
        return pictures, render.answer(answer, model_type)

    async def captions(self, path: str | None, model_type: ModelType, k: int, only_likely: bool) -> tuple[str, str]:
        """The HTML of the captions that match the uploaded file, and of the line above them."""
        if path is None:
            return "", render.hint("Drop, paste or take a picture, or choose one of the collection.")
        try:
            answer = await self._client.image_to_text(Path(path), int(k), model_type, cutoff=_cutoff(only_likely))
        except DiptychError as error:
            return "", render.problem(error)
        return render.captions(answer.results), render.answer(answer, model_type)

    async def samples(self, texts: Sequence[str]) -> list[Picture]:
        """The best photo for each text, each photo once. Empty when the gateway cannot be asked."""
        try:
            answers = await asyncio.gather(*(self._client.text_to_image(text, k=1) for text in texts))
            best = {found.image_id: found.image_name for answer in answers for found in answer.results}
            return await self._pictures(list(best.items()))
        except DiptychError:
            return []

    async def _pictures(self, shown: Sequence[tuple[str, str]]) -> list[Picture]:
        """The photos by id and caption. One that cannot be had (its file was deleted) is left out."""
        paths = await asyncio.gather(*(self._thumbnails.get(image_id) for image_id, _ in shown))
        return [Picture(path, caption) for path, (_, caption) in zip(paths, shown, strict=True) if path is not None]


def _cutoff(only_likely: bool) -> Cutoff:
    return "auto" if only_likely else "none"
