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
from shared.schemas_v1 import SearchAnswer, Term, WordMap

Ranked = Literal["dual", "cross", "both"]
# How much words to avoid push away, beside words that are looked for with 1.
_AVOID = -0.5


@dataclass(frozen=True)
class Wanted:
    """What pictures are looked for: words, a picture file that they should be ``like``, and what to ``avoid``."""

    text: str
    ranked_by: Ranked = "dual"
    k: int = 6
    only_likely: bool = False
    like: str | None = None
    weight: float = 1.0
    avoid: str = ""

    @property
    def composed(self) -> bool:
        return self.like is not None or bool(self.avoid.strip())

    def terms(self) -> list[Term]:
        """Reads the file: in a thread."""
        found = [Term(text=self.text)] if self.text.strip() else []
        if self.like is not None:
            found.append(Term(image=Path(self.like).read_bytes(), weight=self.weight))
        if self.avoid.strip():
            found.append(Term(text=self.avoid, weight=_AVOID))
        return found


@dataclass(frozen=True)
class Picture:
    """A photo of the collection: its id and name, the file of its thumbnail, and a line of text."""

    id: str
    name: str
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

    async def pictures(self, wanted: Wanted) -> list[Found]:
        """The photos; of both models, the reranked ones second, each with how far it moved."""
        if not wanted.text.strip() and wanted.like is None:
            return [Found(render.hint(self.words.no_words))]
        models: list[ModelType] = ["dual", "cross"] if wanted.ranked_by == "both" else [wanted.ranked_by]
        try:
            answers = await asyncio.gather(*(self._ask(wanted, model) for model in models))
            shown = [await self._pictures(_lines(answer)) for answer in answers]
        except DiptychError as error:
            return [Found(render.problem(error, self.words))]
        lines = [render.answer(answer, model, self.words) for answer, model in zip(answers, models, strict=True)]
        if len(shown) == 2:
            before, after = ([picture.id for picture in pictures] for pictures in shown)
            moves = render.moves(before, after, self.words)
            shown[1] = [
                Picture(picture.id, picture.name, picture.path, f"{move} · {picture.caption}")
                for picture, move in zip(shown[1], moves, strict=True)
            ]
        return [Found(line, pictures) for line, pictures in zip(lines, shown, strict=True)]

    async def _ask(self, wanted: Wanted, model: ModelType) -> TextToImageResponse | SearchAnswer:
        if wanted.composed:
            return await self._client.search(*await asyncio.to_thread(wanted.terms), k=int(wanted.k), model_type=model)
        return await self._client.text_to_image(wanted.text, int(wanted.k), model, cutoff=_cutoff(wanted.only_likely))

    async def more_like(self, picture: Picture, k: int) -> Found:
        """The photos most like one of the collection."""
        try:
            answer = await self._client.search(Term(id=picture.id), k=int(k))
            return Found(
                render.hint(self.words.similar.format(picture.name)) + render.answer(answer, "dual", self.words),
                await self._pictures(_lines(answer)),
            )
        except DiptychError as error:
            return Found(render.problem(error, self.words))

    async def show(self, picture: Picture, seen: WordMap | None = None) -> str:
        """HTML of a photo, with where a word is ``seen`` in it."""
        return render.picture(await asyncio.to_thread(picture.path.read_bytes), picture.name, seen)

    async def captions_of(self, picture: Picture) -> str:
        """HTML of what was written for a photo, or where nothing was, of what fits it best."""
        try:
            own = (await self._client.stored_image(picture.id)).captions
            if own:
                return render.listed(own)
            answer = await self._client.search(Term(id=picture.id), target="captions", k=5)
            return render.listed([found.caption or "" for found in answer.results])
        except DiptychError as error:
            return render.problem(error, self.words)

    async def seen(self, text: str, picture: Picture) -> tuple[list[WordMap], str]:
        """Where the reranker sees each word of the text, those that it sees best first; or HTML that says why not."""
        if not text.strip():
            return [], render.hint(self.words.no_text)
        try:
            words = (await self._client.explain(text, picture.id)).words
        except DiptychError as error:
            return [], render.problem(error, self.words)
        distinct = {word.word.lower(): word for word in words}
        return sorted(distinct.values(), key=lambda word: -word.peak), ""

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
            return await self._pictures([(one, name, name) for one, name in best.items()])
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

    async def _pictures(self, shown: Sequence[tuple[str, str, str]]) -> list[Picture]:
        """The photos by id, name and caption. One that cannot be had (its file was deleted) is left out."""
        paths = await asyncio.gather(*(self._thumbnails.get(image_id) for image_id, *_ in shown))
        return [Picture(one, name, path, said) for path, (one, name, said) in zip(paths, shown, strict=True) if path]


def _lines(answer: TextToImageResponse | SearchAnswer) -> list[tuple[str, str, str]]:
    if isinstance(answer, TextToImageResponse):
        scored = [(found.image_id, found.image_name, render.percent(found.score)) for found in answer.results]
    else:  # what the terms together are like is no probability
        scored = [(found.id, found.image_name or found.id, f"{found.similarity:.2f}") for found in answer.results]
    return [(one, name, f"{score} · {name}") for one, name, score in scored]


def _cutoff(only_likely: bool) -> Cutoff:
    return "auto" if only_likely else "none"
