"""A search's answer as one self-contained web page, pictures included."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from shared.engines.images import decode
from shared.schemas import ImageToTextResponse, TextToImageResponse

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.45 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin-bottom: .2rem; }
p.about { color: gray; margin-top: 0; }
ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); gap: 1rem; padding: 0; }
li { list-style: none; }
figure { margin: 0; }
img { width: 100%; aspect-ratio: 4 / 3; object-fit: cover; border-radius: .5rem; display: block; }
figcaption { display: flex; justify-content: space-between; gap: .5rem; font-size: .9rem; padding: .3rem .1rem; }
img.query { width: auto; max-width: min(100%, 28rem); aspect-ratio: auto; }
table { border-collapse: collapse; margin-top: 1rem; }
td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8884; }
"""


# What every browser shows, by how a file of it begins. All else (TIFF above all) goes into the page as a JPEG.
_SHOWN = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp", b"GIF8": "image/gif"}


def write(path: Path, answer: TextToImageResponse | ImageToTextResponse, pictures: Sequence[bytes]) -> None:
    """Write ``answer`` to ``path``. ``pictures`` are the results' thumbnails, or the one picture asked with. Raises
    :class:`ImageError` when one of them, in a format that browsers do not show, cannot be decoded."""
    if isinstance(answer, TextToImageResponse):
        title = answer.query
        cards = (
            f"<li><figure>{_picture(data, result.image_name)}<figcaption><span>{html.escape(result.image_name)}</span>"
            f"<b>{result.score:.2f}</b></figcaption></figure></li>"
            for result, data in zip(answer.results, pictures, strict=True)
        )
        body = f"<ol>{''.join(cards)}</ol>"
    else:
        title = answer.query_image
        rows = (f"<tr><td>{r.score:.2f}</td><td>{html.escape(r.caption)}</td></tr>" for r in answer.results)
        body = f"{_picture(pictures[0], title, 'query')}<table>{''.join(rows)}</table>"
    versions = f"model {answer.model_version} · index {answer.index_version}"
    about = f"{len(answer.results)} results · {answer.model_type} · {versions}"
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)} · Diptych</title><style>{_STYLE}</style>"
        f"<h1>{html.escape(title)}</h1><p class=about>{html.escape(about)}</p>{body}</html>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def _picture(data: bytes, name: str, kind: str = "result") -> str:
    media_type = next((shown for begin, shown in _SHOWN.items() if data.startswith(begin)), None)
    if media_type is None:
        media_type, out = "image/jpeg", BytesIO()
        decode(data).save(out, "JPEG", quality=90)
        data = out.getvalue()
    encoded = base64.b64encode(data).decode()
    return f'<img class="{kind}" alt="{html.escape(name, quote=True)}" src="data:{media_type};base64,{encoded}">'
