"""What crosses HTTP as JSON: the gateway's public answers, and the documents by which it pairs its neighbours."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

ModelType = Literal["dual", "cross"]
Cutoff = Literal["none", "auto"]
ShardKind = Literal["flat", "hnsw", "ivf_flat", "ivf_sq8", "ivf_pq"]


class ImageResult(BaseModel):
    """One picture found for a text."""

    image_path: str = Field(
        description="Path on the gateway that serves the photo.", examples=["/images/5f2c0a9be1d34c77"]
    )
    image_name: str = Field(examples=["chelsea.png"])
    score: float = Field(description="Estimated probability of being a match, 0 to 1.")
    image_id: str
    thumbnail_path: str


class CaptionResult(BaseModel):
    """One caption found for a picture."""

    caption: str
    score: float = Field(description="Estimated probability of being a match, 0 to 1.")
    caption_id: str
    image_id: str | None = Field(None, description="The picture that this caption was written for.")


class Answer(BaseModel):
    """What every search answers beside its results."""

    model_type: ModelType = Field(description="The model that ranked the results (dual when degraded).")
    model_version: str = Field(examples=["flickr8k/1"])
    index_version: str = Field(examples=["gallery/1"])
    degraded: bool = Field(False, description="True when reranking was asked for and could not be had.")
    left_out: int = Field(0, description="How many of the k best were left out by `min_score` and `cutoff`.")
    cached: bool = False
    timings_ms: dict[str, float] = Field(default_factory=dict, description="Milliseconds per stage.")


class TextToImageResponse(Answer):
    query: str
    results: list[ImageResult]


class ImageToTextResponse(Answer):
    query_image: str = Field(description="The upload's file name.")
    results: list[CaptionResult]


class Calibration(BaseModel):
    """Turns a raw score into a probability of being a match: ``sigmoid(scale * raw + bias)`` (Platt, 1999)."""

    scale: float = 1.0
    bias: float = 0.0


class CrossScoring(Calibration):
    """Of one direction. Raw cross score: ``logit + similarity_weight * cosine``."""

    similarity_weight: float = 1.0


class Scoring(BaseModel):
    """Raw dual score: cosine. How much the reranker is to be heard beside it depends on what it ranks."""

    model_config = ConfigDict(extra="forbid")  # one of another release would be read as uncalibrated

    dual: Calibration = Calibration()
    text_to_image: CrossScoring = CrossScoring()
    image_to_text: CrossScoring = CrossScoring()

    def cross(self, query: Literal["text", "image"]) -> CrossScoring:
        """What ranks the candidates of such a query."""
        return self.text_to_image if query == "text" else self.image_to_text


class StoredImage(BaseModel):
    """A photo of the collection, and what is said of it."""

    id: str
    name: str
    captions: list[str]
    tags: list[str]
    metadata: dict[str, Any]
    bytes: int | None
    image_path: str
    thumbnail_path: str


class ImagesPage(BaseModel):
    images: list[StoredImage]
    next: str | None = Field(description="The `after` of the next page; null on the last.")


class Duplicate(BaseModel):
    """Another photo with the same bytes (`exact`), or one that looks the same (`near`)."""

    id: str
    kind: Literal["exact", "near"]
    similarity: float


class ChangedImage(BaseModel):
    """The change is on the disk and can be searched."""

    id: str
    status: Literal["created", "replaced", "unchanged"]
    duplicates: list[Duplicate]
    index_version: str


class ServedModel(BaseModel):
    """A model version that an encoder has in memory. ``ref`` is ``name/version``."""

    ref: str
    fingerprint: str
    embedding_dim: int
    token_dim: int
    has_reranker: bool
    scoring: Scoring
    metrics: dict[str, Any] = Field(default_factory=dict)


class EncoderStatus(BaseModel):
    """``current`` is the version the store points to and that is loaded; older ones are kept for a while."""

    engine: str
    current: str | None
    models: list[ServedModel]
    problem: str | None = Field(None, description="Why the version the store points to is not being served.")


class SealedShard(BaseModel):
    """How a collection of an index is searched, as it was chosen and tuned when it was sealed."""

    kind: ShardKind
    parameters: dict[str, int] = Field(
        default_factory=dict, description="efSearch or nprobe, and how many candidates are refined for each result."
    )
    recall_at_10: float = Field(1.0, description="Measured against exact search, with queries that chose nothing.")
    target: float = Field(1.0, description="The recall that was asked for.")
    queries: str = Field("", description="What it was tuned and measured with.")
    build_seconds: float = Field(0.0, description="To train it, to add the items and to tune it.")


class ServedIndex(BaseModel):
    """An index version in memory. ``collections`` maps a collection to its number of items."""

    ref: str
    fingerprint: str
    embedding_dim: int
    collections: dict[str, int]
    revision: int = Field(0, description="The last change of the collection that can be searched.")
    pending: int = Field(0, description="Photos that wait for this index's model to look at them.")
    shards: dict[str, SealedShard] = Field(default_factory=dict, description="How each collection is searched.")


class IndexStatus(BaseModel):
    current: str | None
    indexes: list[ServedIndex]
    problem: str | None = None


class ModelsResponse(BaseModel):
    """``GET /models`` on the gateway."""

    current: str | None
    index: str | None
    models: list[ServedModel]
    indexes: list[ServedIndex]


class ReadyResponse(BaseModel):
    """``GET /health/ready``: 200 when ``ready``, 503 otherwise, with a sentence for each thing that is missing."""

    ready: bool
    problems: list[str] = Field(default_factory=list)


class ProblemDocument(BaseModel):
    """RFC 9457 problem details."""

    type: str = Field(description="urn:diptych:problem: and the kind of problem, as docs/errors.md lists them.")
    title: str
    status: int
    detail: str = Field(description="What was wrong, with which value, and what to do.")
    request_id: str = Field(description="The id under which the services logged the request.")
