"""One question, two ways to ask it: through a gateway, or on the store's artifacts in this process."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Protocol

from diptych import Client, shipped
from shared.artifacts import ArtifactError, ArtifactStore, Ref
from shared.collections import LIBRARIES, IndexDirectory, LibraryReader, VectorCollection
from shared.engines import open_engine
from shared.engines.engine import Float32
from shared.engines.images import ImageError, decode, pixels
from shared.engines.texts import TextError
from shared.schemas import CaptionResult, ImageResult, ImageToTextResponse, ModelType, TextToImageResponse
from shared.scoring import Cut, rank_cross, rank_dual
from shared.settings import MilvusSettings
from shared.tokens import TokenFeatures

# The gateway's defaults: what the cross model reranks when fewer, and when more, results are asked for.
_DEPTH, _MOST = 50, 200
_THUMBNAIL = 512


class SearchError(Exception):
    """The question cannot be answered as it was put. Says why and what to do."""


class Searcher(Protocol):
    """What ``diptych search`` asks."""

    def text_to_image(self, text: str, k: int, model_type: ModelType, cut: Cut) -> TextToImageResponse: ...

    def image_to_text(self, image: Path, k: int, model_type: ModelType, cut: Cut) -> ImageToTextResponse: ...

    def thumbnail(self, image_id: str) -> bytes: ...


def open_searcher(gateway: str | None, store: Path) -> Searcher:
    """On the gateway at that address, or on what the store at that path serves."""
    return _GatewaySearcher(gateway) if gateway else _StoreSearcher(store)


class _GatewaySearcher:
    def __init__(self, url: str) -> None:
        self._client = Client(url)

    def text_to_image(self, text: str, k: int, model_type: ModelType, cut: Cut) -> TextToImageResponse:
        return self._client.text_to_image(text, k, model_type, min_score=cut.min_score, cutoff=cut.cutoff)

    def image_to_text(self, image: Path, k: int, model_type: ModelType, cut: Cut) -> ImageToTextResponse:
        return self._client.image_to_text(image, k, model_type, min_score=cut.min_score, cutoff=cut.cutoff)

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
        index = Ref.parse(current.index)
        library = LibraryReader(store / LIBRARIES / index.name)
        self._index = IndexDirectory.open(shelf.path("index", index), library=library, milvus=MilvusSettings())
        self._engine = open_engine(shipped.current_model(store))
        if self._index.manifest.fingerprint != self._engine.manifest.fingerprint:
            raise ArtifactError(f"index {current.index} was not built by model {current.model}")

    def text_to_image(self, text: str, k: int, model_type: ModelType, cut: Cut) -> TextToImageResponse:
        try:
            query = self._engine.embed_texts([text])
        except TextError as error:
            raise SearchError(str(error)) from error
        found, scores, left_out = self._rank("images", query.embedding, query.tokens[0], k, model_type, cut)
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
        return TextToImageResponse(query=text, results=results, left_out=left_out, **self._about(model_type))

    def image_to_text(self, image: Path, k: int, model_type: ModelType, cut: Cut) -> ImageToTextResponse:
        try:
            query = self._engine.embed_images(pixels(image.read_bytes(), self._engine.manifest.preprocessing)[None])
        except ImageError as error:
            raise SearchError(f"{image}: {error}") from error
        found, scores, left_out = self._rank("captions", query.embedding, query.tokens[0], k, model_type, cut)
        results = [
            CaptionResult(
                caption=str(about["caption"]), score=score, caption_id=item_id, image_id=about.get("image_id")
            )
            for item_id, score, about in zip(found, scores, self._index.captions.metadata(found), strict=True)
        ]
        return ImageToTextResponse(
            query_image=image.name, results=results, left_out=left_out, **self._about(model_type)
        )

    def thumbnail(self, image_id: str) -> bytes:
        """A JPEG at most 512 pixels wide and high. Raises :class:`SearchError` when the photo has been damaged."""
        try:
            image = decode(self._index.content(image_id))
        except ImageError as error:
            raise SearchError(f"photo {image_id}: {error}") from error
        image.thumbnail((_THUMBNAIL, _THUMBNAIL))
        out = io.BytesIO()
        image.save(out, "JPEG", quality=85)
        return out.getvalue()

    def _rank(
        self, collection: str, vector: Float32, tokens: TokenFeatures, k: int, model_type: ModelType, cut: Cut
    ) -> tuple[list[str], list[float], int]:
        """Ids and probabilities of the best ``k``, fewer when the collection is smaller, and how many more were cut."""
        store = self._index.collection(collection)
        cosines, ids = _nearest(store, vector, max(k, _DEPTH) if model_type == "cross" else k)
        scoring = self._engine.manifest.scoring
        if model_type == "dual":
            order, scores = rank_dual(cosines, scoring)
        else:
            candidates = store.tokens(ids[:_MOST])
            queries = [tokens] * len(candidates)
            pair = (queries, candidates) if collection == "images" else (candidates, queries)
            order, scores = rank_cross(
                cosines, self._engine.rerank(*pair), scoring, "text" if collection == "images" else "image"
            )
        best = scores[:k]
        kept = cut.kept(best)
        return [ids[row] for row in order[:kept]], best[:kept].tolist(), len(best) - kept

    def _about(self, model_type: ModelType) -> dict[str, Any]:
        return {
            "model_type": model_type,
            "model_version": self._engine.manifest.ref,
            "index_version": self._index.manifest.ref,
        }


def _nearest(store: VectorCollection, vector: Float32, depth: int) -> tuple[Float32, list[str]]:
    """Cosines and ids of the ``depth`` nearest items. Of captions with the same words only the first counts."""
    asked = depth
    while True:
        cosines, (ids,) = store.search(vector, asked)
        words = [item.get("caption", item_id) for item_id, item in zip(ids, store.metadata(ids), strict=True)]
        rows = [row for row, own in enumerate(words) if words.index(own) == row]
        if len(rows) >= depth or len(ids) < asked:
            return cosines[0][rows[:depth]], [ids[row] for row in rows[:depth]]
        asked *= 2
