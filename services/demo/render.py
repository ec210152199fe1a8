"""Answers and failures as HTML. Every text from outside is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from shared.client import DiptychError
from shared.schemas import Answer, CaptionResult, ImageToTextResponse, ModelsResponse, ModelType, TextToImageResponse

MODELS: dict[ModelType, str] = {"dual": "Dual encoder", "cross": "Cross-attention"}


def hint(sentence: str) -> str:
    return f'<p class="hint">{escape(sentence)}</p>'


def problem(error: DiptychError) -> str:
    """What went wrong, what to do, and the id under which the services logged it."""
    trace = f' <span class="trace">Request {escape(error.request_id)}</span>' if error.request_id else ""
    said = f"<b>{escape(error.title)}:</b> {escape(error.detail)}"
    return f'<div class="problem" role="alert">{said}{trace}</div>'


def answer(found: TextToImageResponse | ImageToTextResponse, asked: ModelType) -> str:
    """One line about an answer: how many results, by which versions, how long each stage took."""
    count = len(found.results)
    noun = "picture" if isinstance(found, TextToImageResponse) else "caption"
    parts = [
        f"{count} {noun}{'' if count == 1 else 's'}",
        f"{found.left_out} less likely left out" if found.left_out else "",
        MODELS[found.model_type],
        f"model {found.model_version}",
        f"index {found.index_version}",
        _timings(found),
    ]
    line = "".join(f"<span>{escape(part)}</span>" for part in parts if part)
    notice = ""
    if found.degraded:
        notice = (
            f'<div class="notice" role="status">{MODELS[asked]} could not be had just now: '
            f"these results are ranked by the {MODELS[found.model_type].lower()}.</div>"
        )
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


def percent(score: float) -> str:
    """A probability with about two digits: ``64%``, ``3.1%``."""
    return f"{score:.0%}" if score >= 0.0995 else f"{score:.1%}"


def collection(served: ModelsResponse) -> str:
    """What there is to search in."""
    index = next((index for index in served.indexes if index.ref == served.index), None)
    if index is None:
        return hint("No photos are indexed yet.")
    images, texts = (index.collections.get(name, 0) for name in ("images", "captions"))
    return f'<p class="hint">Searching <b>{images:,}</b> pictures and <b>{texts:,}</b> captions</p>'


def _timings(found: Answer) -> str:
    """``41 ms (embed 12, search 1, rerank 28)``, whatever the stages are called."""
    milliseconds = dict(found.timings_ms)
    total = milliseconds.pop("total", sum(milliseconds.values()))
    if found.cached:
        return f"{total:.0f} ms, from the cache"
    stages = ", ".join(f"{name} {value:.0f}" for name, value in milliseconds.items())
    return f"{total:.0f} ms ({stages})" if stages else ""
