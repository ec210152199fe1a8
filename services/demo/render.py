"""Answers and failures as HTML. Every text from outside is escaped here."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from services.demo.words import ENGLISH, Words, counted
from shared.client import DiptychError
from shared.schemas import (
    Answer,
    CaptionResult,
    Duplicate,
    ImageToTextResponse,
    ModelsResponse,
    ModelType,
    TextToImageResponse,
)
from shared.schemas_v1 import SearchAnswer, WordMap

Results = TextToImageResponse | ImageToTextResponse | SearchAnswer


@dataclass(frozen=True)
class Added:
    """What became of a file that was to be added."""

    name: str
    said: str
    duplicates: Sequence[Duplicate] = field(default_factory=list)
    failed: bool = False


def hint(sentence: str) -> str:
    return f'<p class="hint">{escape(sentence)}</p>' if sentence else ""


def problem(error: DiptychError, words: Words = ENGLISH) -> str:
    """What went wrong, what to do, and the id under which the services logged it."""
    trace = f' <span class="trace">{words.request.format(escape(error.request_id))}</span>' if error.request_id else ""
    said = f"<b>{escape(error.title)}:</b> {escape(error.detail)}"
    return f'<div class="problem" role="alert">{said}{trace}</div>'


def model_name(model: ModelType, words: Words = ENGLISH) -> str:
    return {"dual": words.dual, "cross": words.cross}[model]


def answer(found: Results, asked: ModelType, words: Words = ENGLISH) -> str:
    """One line about an answer: how many results, by which versions, how long each stage took."""
    forms = words.captions if isinstance(found, ImageToTextResponse) else words.pictures
    ranked_by = model_name(found.model_type, words)
    parts = [
        counted(forms, len(found.results)),
        words.left_out.format(found.left_out) if found.left_out else "",
        ranked_by,
        words.version.format(found.model_version),
        words.index.format(found.index_version),
        _timings(found, words),
    ]
    line = "".join(f"<span>{escape(part)}</span>" for part in parts if part)
    notice = ""
    if found.degraded:
        said = words.degraded.format(model_name(asked, words), ranked_by.lower())
        notice = f'<div class="notice" role="status">{said}</div>'
    return f'{notice}<p class="answer">{line}</p>'


def captions(results: Sequence[CaptionResult]) -> str:
    """A ranked list, each caption with its score, over a bar that compares it with the best."""
    best = max((found.score for found in results), default=0.0) or 1.0
    items = "".join(
        f'<li><span class="caption">{escape(found.caption)}</span><span class="score">{percent(found.score)}</span>'
        f'<span class="bar"><span style="width:{100 * found.score / best:.1f}%"></span></span></li>'
        for found in results
    )
    return f'<ol class="captions">{items}</ol>'


def added(files: Sequence[Added], total: int, words: Words = ENGLISH) -> str:
    """What became of each file, and how many of all are in."""
    items = "".join(
        f'<li class="{"failed" if file.failed else "done"}"><b>{escape(file.name)}</b> <span>{escape(file.said)}</span>'
        + "".join(f" <em>{escape(words.looks_like.format(other.id))}</em>" for other in file.duplicates)
        + "</li>"
        for file in files
    )
    count = words.added.format(sum(not file.failed for file in files), total)
    return f'<p class="answer"><span>{escape(count)}</span></p><ul class="added" role="status">{items}</ul>'


def listed(texts: Sequence[str]) -> str:
    return '<ul class="own">' + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>"


def picture(jpeg: bytes, name: str, seen: WordMap | None = None) -> str:
    """A picture, and over it, the brighter the more, where a word is seen."""
    source = base64.b64encode(jpeg).decode("ascii")
    return (
        f'<figure class="chosen"><div><img src="data:image/jpeg;base64,{source}" alt="{escape(name)}">'
        f"{_heat(seen.weights) if seen else ''}</div><figcaption>{escape(name)}</figcaption></figure>"
    )


def _heat(weights: Sequence[Sequence[float]]) -> str:
    """The grid is stretched over the picture as the picture was squeezed for the model."""
    cells = "".join(
        f'<rect x="{column}" y="{row}" width="1" height="1" fill-opacity="{weight:.2f}"/>'
        for row, line in enumerate(weights)
        for column, weight in enumerate(line)
    )
    return (
        f'<svg class="heat" viewBox="0 0 {len(weights[0])} {len(weights)}" preserveAspectRatio="none" role="img">'
        f'<filter id="soft" x="0" y="0" width="1" height="1"><feGaussianBlur stdDeviation="0.45"/></filter>'
        f'<rect class="veil" width="100%" height="100%"/><g filter="url(#soft)">{cells}</g></svg>'
    )


def percent(score: float) -> str:
    """A probability with about two digits: ``64%``, ``3.1%``."""
    return f"{score:.0%}" if score >= 0.0995 else f"{score:.1%}"


def moves(before: Sequence[str], after: Sequence[str], words: Words = ENGLISH) -> list[str]:
    """How far each id of ``after`` went up or down from where it was in ``before``: ``▲3``, ``▼1``."""
    places = {one: place for place, one in enumerate(before)}
    said = []
    for place, one in enumerate(after):
        up = places[one] - place if one in places else None
        said.append(words.new if up is None else f"▲{up}" if up > 0 else f"▼{-up}" if up < 0 else words.unmoved)
    return said


def collection(served: ModelsResponse, words: Words = ENGLISH) -> str:
    """What there is to search in."""
    index = next((index for index in served.indexes if index.ref == served.index), None)
    if index is None:
        return hint(words.nothing_indexed)
    images, texts = (index.collections.get(name, 0) for name in ("images", "captions"))
    return f'<p class="hint">{words.searching.format(f"{images:,}", f"{texts:,}")}</p>'


def _timings(found: Answer, words: Words) -> str:
    """``41 ms (embed 12, search 1, rerank 28)``, whatever the stages are called."""
    milliseconds = dict(found.timings_ms)
    total = milliseconds.pop("total", sum(milliseconds.values()))
    if found.cached:
        return words.cached.format(f"{total:.0f}")
    stages = ", ".join(f"{name} {value:.0f}" for name, value in milliseconds.items())
    return f"{total:.0f} ms ({stages})" if stages else ""
