"""What the page does: asks the gateway, and turns answers and failures into what its components show."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from services.demo import render
from services.demo.thumbnails import Thumbnails
from services.demo.words import ENGLISH, Words
from shared.client import AsyncClient, DiptychError
from shared.schemas import Cutoff, ModelType, TextToImageResponse

Ranked = Literal["dual", "cross", "both"]


@dataclass(frozen=True)
class Picture:
    """A photo of the collection: its id, the file of its thumbnail, and a line of text."""

    id: str
    path: Path
    caption: str


@dataclass(frozen=True)
class Found:
    """Photos, best first, and the HTML of the line above them."""

    line: str
    pictures: Sequence[Picture] = field(default_factory=list)


class Search:
    """The page's actions, in one language. None of them raises for a gateway that is away or refuses: the sentence is
    in the HTML."""

    def __init__(self, client: AsyncClient, thumbnails: Thumbnails, words: Words = ENGLISH) -> None:
        self.words = words
        self._client = client
        self._thumbnails = thumbnails

    async def collection(self) -> str:
        """HTML: what is being searched, and with which model."""
        try:
            return render.collection(await self._client.models(), self.words)
        except DiptychError as error:
            return render.problem(error, self.words)

    async def pictures(self, text: str, ranked_by: Ranked, k: int, only_likely: bool) -> list[Found]:
        """Photos that match the text; of both models, the reranked ones second, each with how far it moved."""
        if not text.strip():
            return [Found(render.hint(self.words.no_words))]
        models: list[ModelType] = ["dual", "cross"] if ranked_by == "both" else [ranked_by]
        cutoff = _cutoff(only_likely)
        try:
            answers = await asyncio.gather(
                *(self._client.text_to_image(text, int(k), model, cutoff=cutoff) for model in models)
            )
            shown = [await self._pictures(_lines(answer)) for answer in answers]
        except DiptychError as error:
            return [Found(render.problem(error, self.words))]
        lines = [render.answer(answer, model, self.words) for answer, model in zip(answers, models, strict=True)]
        if len(shown) == 2:
            before, after = ([picture.id for picture in pictures] for pictures in shown)
            moves = render.moves(before, after, self.words)
            shown[1] = [
                Picture(picture.id, picture.path, f"{move} · {picture.caption}")
                for picture, move in zip(shown[1], moves, strict=True)
            ]
        return [Found(line, pictures) for line, pictures in zip(lines, shown, strict=True)]

    async def captions(self, path: str | None, model_type: ModelType, k: int, only_likely: bool) -> tuple[str, str]:
        """The HTML of the captions that match the uploaded file, and of the line above them."""
        if path is None:
            return "", render.hint(self.words.no_picture)
        try:
            answer = await self._client.image_to_text(Path(path), int(k), model_type, cutoff=_cutoff(only_likely))
        except DiptychError as error:
            return "", render.problem(error, self.words)
        return render.captions(answer.results), render.answer(answer, model_type, self.words)

    async def samples(self, texts: Sequence[str]) -> list[Picture]:
        """The best photo for each text, each photo once. Empty when the gateway cannot be asked."""
        try:
            answers = await asyncio.gather(*(self._client.text_to_image(text, k=1) for text in texts))
            best = {found.image_id: found.image_name for answer in answers for found in answer.results}
            return await self._pictures(list(best.items()))
        except DiptychError:
            return []

    async def add(self, files: Sequence[str], captions: str, tags: str) -> AsyncIterator[tuple[int, str]]:
        """Put files into the collection one after the other: how many are done, and what is said of all of them in
        HTML, after each. What is wrong with one does not keep the others out."""
        if not files:
            yield 0, render.hint(self.words.no_files)
            return
        lines = [line.strip() for line in captions.splitlines() if line.strip()]
        words = [tag.strip() for tag in re.split("[,\uff0c]", tags) if tag.strip()]
        said: list[render.Added] = []
        for number, file in enumerate(map(Path, files), 1):
            try:
                changed = await self._client.put_image(file, captions=lines, tags=words)
                said.append(render.Added(file.name, self.words.status[changed.status], changed.duplicates))
            except DiptychError as error:
                said.append(render.Added(file.name, f"{error.title}: {error.detail}", failed=True))
            yield number, render.added(said, len(files), self.words)

    async def _pictures(self, shown: Sequence[tuple[str, str]]) -> list[Picture]:
        """The photos by id and caption. One that cannot be had (its file was deleted) is left out."""
        paths = await asyncio.gather(*(self._thumbnails.get(image_id) for image_id, _ in shown))
        return [Picture(one, path, caption) for path, (one, caption) in zip(paths, shown, strict=True) if path]


def _lines(answer: TextToImageResponse) -> list[tuple[str, str]]:
    return [(found.image_id, f"{render.percent(found.score)} · {found.image_name}") for found in answer.results]


def _cutoff(only_likely: bool) -> Cutoff:
    return "auto" if only_likely else "none"
