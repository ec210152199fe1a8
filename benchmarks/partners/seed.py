"""The seed's design: one synchronous process, one request after the other, no batches, no cache, no stored tokens.

A query is embedded alone and multiplied with the whole matrix; to rerank, the candidates are encoded again, photos from
their files. Usage: ``python -m benchmarks.partners.seed STORE PHOTOS PORT``.
"""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import uvicorn
from fastapi import FastAPI, File, Form, UploadFile

from shared import scoring
from shared.artifacts import ArtifactStore, Ref
from shared.collections import items
from shared.engines import open_engine
from shared.engines.images import pixels
from shared.schemas import ModelType

_DEPTH = 50


def create(store: Path, photos: Path) -> FastAPI:
    shelf = ArtifactStore(store)
    current = shelf.current()
    assert current is not None
    assert current.index is not None
    engine = open_engine(shelf.path("model", Ref.parse(current.model)), engine="onnx")
    path = shelf.path("index", Ref.parse(current.index)) / items.ITEMS
    files = sorted(photos.iterdir())
    vectors, names = {}, {}
    for kind in ("images", "captions"):
        connection = items.connect(path, writable=False)
        ids, vectors[kind] = items.vectors(connection, kind, engine.manifest.embedding_dim)
        names[kind] = _names(connection, kind)
        assert len(names[kind]) == len(ids)
    how = engine.manifest.scoring
    app = FastAPI()

    def nearest(vector: Any, kind: str, n: int) -> tuple[Any, Any]:
        cosines = vectors[kind] @ vector
        rows = np.argsort(-cosines)[:n]
        return rows, cosines[rows]

    def image(data: bytes) -> Any:
        return engine.embed_images(pixels(data, engine.manifest.preprocessing)[None])

    # The handlers block the only thread, as the seed's do: that is what one synchronous process means.
    @app.post("/text-to-image")
    async def text_to_image(
        text: Annotated[str, Form()], model_type: Annotated[ModelType, Form()] = "dual", k: Annotated[int, Form()] = 5
    ) -> dict[str, Any]:
        asked = engine.embed_texts([text])
        rows, cosines = nearest(asked.embedding[0], "images", _DEPTH if model_type == "cross" else k)
        if model_type == "cross":
            seen = [image(files[row % len(files)].read_bytes()).tokens[0] for row in rows]
            order, scores = scoring.rank_cross(cosines, engine.rerank(asked.tokens * len(rows), seen), how, "text")
        else:
            order, scores = scoring.rank_dual(cosines, how)
        best = zip(rows[order[:k]], scores[:k], strict=True)
        results = [{"image_path": names["images"][row], "score": float(score)} for row, score in best]
        return {"query": text, "results": results}

    @app.post("/image-to-text")
    async def image_to_text(
        image_: Annotated[UploadFile, File(alias="image")],
        model_type: Annotated[ModelType, Form()] = "dual",
        k: Annotated[int, Form()] = 5,
    ) -> dict[str, Any]:
        asked = image(await image_.read())
        rows, cosines = nearest(asked.embedding[0], "captions", _DEPTH if model_type == "cross" else k)
        if model_type == "cross":
            read = [engine.embed_texts([names["captions"][row]]).tokens[0] for row in rows]
            order, scores = scoring.rank_cross(cosines, engine.rerank(read, asked.tokens * len(rows)), how, "image")
        else:
            order, scores = scoring.rank_dual(cosines, how)
        best = zip(rows[order[:k]], scores[:k], strict=True)
        results = [{"caption": names["captions"][row], "score": float(score)} for row, score in best]
        return {"query_image": image_.filename, "results": results}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "live"}

    return app


def _names(connection: sqlite3.Connection, kind: str) -> list[str]:
    field = "$.name" if kind == "images" else "$.caption"
    statement = "SELECT json_extract(metadata, ?) FROM items WHERE collection = ? ORDER BY number"
    return [name for (name,) in connection.execute(statement, (field, kind))]


def main() -> None:
    store, photos, port = sys.argv[1:]
    uvicorn.run(create(Path(store), Path(photos)), host="127.0.0.1", port=int(port), log_level="warning")


if __name__ == "__main__":
    main()
