"""One question, two ways to ask it: through a gateway, or on the store's artifacts in this process."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Protocol

from diptych import Client, shipped
from shared.artifacts import ArtifactError, ArtifactStore, Ref
from shared.collections import IndexDirectory
from shared.engines import open_engine
from shared.engines.engine import Float32
from shared.engines.images import ImageError, decode, pixels
from shared.engines.texts import TextError
from shared.schemas import CaptionResult, ImageResult, ImageToTextResponse, ModelType, TextToImageResponse
from shared.scoring import rank_cross, rank_dual
from shared.tokens import TokenFeatures

_DEPTH = 50
_THUMBNAIL = 512


class SearchError(Exception):
    """The question cannot be answered as it was put. Says why and what to do."""


class Searcher(Protocol):
    """What ``diptych search`` asks."""

    def text_to_image(self, text: str, k: int, model_type: ModelType) -> TextToImageResponse: ...

    def image_to_text(self, image: Path, k: int, model_type: ModelType) -> ImageToTextResponse: ...

    def thumbnail(self, image_id: str) -> bytes: ...


def open_searcher(gateway: str | None, store: Path) -> Searcher:
    """On the gateway at that address, or on what the store at that path serves."""
    return _GatewaySearcher(gateway) if gateway else _StoreSearcher(store)


class _GatewaySearcher:
    def __init__(self, url: str) -> None:
        self._client = Client(url)

    def text_to_image(self, text: str, k: int, model_type: ModelType) -> TextToImageResponse:
        return self._client.text_to_image(text, k=k, model_type=model_type)

    def image_to_text(self, image: Path, k: int, model_type: ModelType) -> ImageToTextResponse:
        return self._client.image_to_text(image, k=k, model_type=model_type)

    def thumbnail(self, image_id: str) -> bytes:
        return self._client.thumbnail(image_id)


class _StoreSearcher:
    """The gateway's way of answering, without the services: embed, find, rerank, score."""

    def __init__(self, store: Path) -> None:
        shelf = ArtifactStore(store)
        current = shelf.current()
        if current is None or current.index is None:
            raise SearchError(
                f"nothing is indexed in {store}: run `diptych index build --img-dir PHOTOS` (or `diptych up`) first, "
                "or ask a running gateway with --gateway URL"
            )
        self._index = IndexDirectory.open(shelf.path("index", Ref.parse(current.index)))
        self._engine = open_engine(shipped.current_model(store))
        if self._index.manifest.fingerprint != self._engine.manifest.fingerprint:
            raise ArtifactError(f"index {current.index} was not built by model {current.model}")

    def text_to_image(self, text: str, k: int, model_type: ModelType) -> TextToImageResponse:
        try:
            query = self._engine.embed_texts([text])
        except TextError as error:
            raise SearchError(str(error)) from error
        found, scores = self._rank("images", query.embedding, query.tokens[0], k, model_type)
        results = [
            ImageResult(
                image_path=f"/images/{item_id}",
                image_name=str(about["name"]),
                score=score,
                image_id=item_id,
                thumbnail_path=f"/images/{item_id}/thumbnail",
            )
            for item_id, score, about in zip(found, scores, self._index.images.metadata(found), strict=True)
        ]
        return TextToImageResponse(query=text, results=results, **self._about(model_type))

    def image_to_text(self, image: Path, k: int, model_type: ModelType) -> ImageToTextResponse:
        try:
            query = self._engine.embed_images(pixels(image.read_bytes(), self._engine.manifest.preprocessing)[None])
        except ImageError as error:
            raise SearchError(f"{image}: {error}") from error
        # Twice as many as asked for, since the same words may have been written for several pictures.
        found, scores = self._rank("captions", query.embedding, query.tokens[0], 2 * k, model_type)
        results: dict[str, CaptionResult] = {}
        for item_id, score, about in zip(found, scores, self._index.captions.metadata(found), strict=True):
            caption = str(about["caption"])
            result = CaptionResult(caption=caption, score=score, caption_id=item_id, image_id=about.get("image_id"))
            results.setdefault(caption, result)
        return ImageToTextResponse(
            query_image=image.name, results=list(results.values())[:k], **self._about(model_type)
        )

    def thumbnail(self, image_id: str) -> bytes:
        """A JPEG at most 512 pixels wide and high."""
        image = decode(self._index.photo(image_id).read_bytes())
        image.thumbnail((_THUMBNAIL, _THUMBNAIL))
        out = io.BytesIO()
        image.save(out, "JPEG", quality=85)
        return out.getvalue()

    def _rank(
        self, collection: str, vector: Float32, tokens: TokenFeatures, k: int, model_type: ModelType
    ) -> tuple[list[str], list[float]]:
        store = self._index.collection(collection)
        depth = max(k, _DEPTH) if model_type == "cross" else k
        cosines, ids = store.search(vector, depth)
        scoring = self._engine.manifest.scoring
        if model_type == "dual":
            order, scores = rank_dual(cosines[0], scoring)
        else:
            candidates = store.tokens(ids[0])
            queries = [tokens] * len(candidates)
            pair = (queries, candidates) if collection == "images" else (candidates, queries)
            order, scores = rank_cross(cosines[0], self._engine.rerank(*pair), scoring)
        return [ids[0][row] for row in order[:k]], scores[:k].tolist()

    def _about(self, model_type: ModelType) -> dict[str, Any]:
        return {
            "model_type": model_type,
            "model_version": self._engine.manifest.ref,
            "index_version": self._index.manifest.ref,
        }
