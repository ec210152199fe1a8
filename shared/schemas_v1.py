"""What ``/v1`` says in JSON, beside :mod:`shared.schemas`."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

from shared.schemas import Answer, Cutoff, Duplicate, ModelType

Target = Literal["images", "captions"]
MAX_TERMS = 16
MAX_INPUTS = 256
MAX_CHARS = 10_000
FILTER = (
    "Only what is of a photo whose metadata fit: for each field the value that it must equal, a list of values of "
    "which one will do, or a range of numbers with `gt`, `gte`, `lt` and `lte`."
)


def from_base64(value: object) -> object:
    """The bytes of base64 text, with or without ``data:image/...;base64,`` before it. Raises ValueError."""
    if not isinstance(value, str):
        return value
    _, comma, rest = value.partition(",") if value[:5] == "data:" else ("", "", value)
    if value[:5] == "data:" and (not comma or ";base64" not in value[: value.index(",")]):
        raise ValueError("a data: URI with ;base64, is needed")
    try:
        data = base64.b64decode(rest, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"it is not base64 ({error})") from error
    if not data:
        raise ValueError("it is empty: send the bytes of a picture")
    return data


def _words(text: str) -> str:
    if not (words := text.strip()):
        raise ValueError("it is blank")
    return words


def _input(text: str) -> str:
    if not text.startswith("data:") and len(text) > MAX_CHARS:
        raise ValueError(f"the text has {len(text):,} characters, over the limit of {MAX_CHARS:,}; send less")
    return _words(text)


def _no_tokens(value: object) -> object:
    if isinstance(value, list) and any(isinstance(one, int | list) for one in value):
        raise ValueError("token ids of another model mean nothing here: send texts")
    return value


Base64Image = Annotated[
    bytes,
    BeforeValidator(from_base64),
    PlainSerializer(lambda data: base64.b64encode(data).decode("ascii"), str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "base64", "description": "A picture's file; data: URIs do, too."}),
]
Tag = Annotated[str, Field(min_length=1, max_length=100)]
Text = Annotated[str, Field(min_length=1, max_length=MAX_CHARS), AfterValidator(_words)]
Input = Annotated[str, AfterValidator(_input)]
ImageId = Annotated[str, Field(min_length=1, max_length=128)]


class Strict(BaseModel):
    """A request. A field that is misspelt is an error and not a default."""

    model_config = ConfigDict(extra="forbid")


class Term(Strict):
    """One of ``text``, ``image`` and ``id``. With a negative weight: what the results should be unlike."""

    text: Text | None = None
    image: Base64Image | None = None
    id: ImageId | None = Field(None, description="A photo of the collection; it is not embedded again.")
    weight: float = Field(1.0, ge=-10, le=10, allow_inf_nan=False)

    @model_validator(mode="after")
    def _is_one(self) -> Term:
        given = [name for name in ("text", "image", "id") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a term is one of text, image and id, not {' and '.join(given) or 'nothing'}")
        if self.weight == 0:
            raise ValueError("a weight of 0 has no effect: leave the term out")
        return self


class Page(Strict):
    """What every search of ``/v1`` can be told."""

    k: int = Field(10, ge=1, description="How many results; fewer come when there are no more.")
    offset: int = Field(0, ge=0, description="How many of the best to pass over: `next_offset` of the page before.")
    model_type: ModelType = "dual"
    min_score: float | None = Field(
        None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Leave out results with a `score` below this; only for `calibrated` queries.",
    )
    min_similarity: float | None = Field(None, ge=-1, le=1, allow_inf_nan=False)
    cutoff: Cutoff = Field(
        "none", description="With `auto` the page ends where its expected F1 is highest; only for `calibrated` queries."
    )
    tags: list[Tag] = Field(default_factory=list, max_length=20, description="Only what has all these tags.")
    filter: dict[str, Any] = Field(
        default_factory=dict, description=FILTER, examples=[{"place": ["Rome", "Oslo"], "year": {"gte": 2020}}]
    )
    explain: bool = Field(False, description="Say of each result how its rank came about.")


class SearchRequest(Page):
    query: list[Term] = Field(min_length=1, max_length=MAX_TERMS)
    target: Target = "images"

    @model_validator(mode="after")
    def _looks_for_something(self) -> SearchRequest:
        if all(term.weight < 0 for term in self.query):
            raise ValueError("query: at least one term needs a weight over 0")
        return self


class CaptionsRequest(Page):
    image: Base64Image | None = None
    id: ImageId | None = None

    @model_validator(mode="after")
    def _is_one(self) -> CaptionsRequest:
        if (self.image is None) == (self.id is None):
            raise ValueError("send either image or id")
        return self


class TermPart(BaseModel):
    """One term's part in a result. Contributions add up to the result's ``similarity``."""

    cosine: float = Field(description="Of the term alone with the result.")
    contribution: float


class Explanation(BaseModel):
    cosine: float
    logit: float | None = Field(description="The reranker's matching logit; null where it has not looked.")
    terms: list[TermPart]


class Found(BaseModel):
    """A photo, or a caption, that was found."""

    id: str
    score: float | None = Field(
        description="Probability of being a match, 0 to 1; null for queries whose scores are not calibrated."
    )
    similarity: float = Field(description="Cosine of the query with the result, -1 to 1.")
    caption: str | None = None
    image_id: str | None = None
    image_name: str | None = None
    image_path: str | None = None
    thumbnail_path: str | None = None
    tags: list[str] = Field(default_factory=list)
    metadata: dict[str, Any] = Field(default_factory=dict)
    explanation: Explanation | None = None


class TermOrigin(BaseModel):
    kind: Literal["text", "image", "id"]
    weight: float
    embedding: Literal["cache", "encoder", "index"] = Field(description="Where its embedding came from.")


class SearchAnswer(Answer):
    calibrated: bool = Field(description="Whether `score` is a probability: for one text, or one picture to captions.")
    degraded_reason: str | None = None
    next_offset: int | None = Field(description="The `offset` of the next page; null on the last.")
    results: list[Found]
    query: list[TermOrigin] | None = Field(None, description="With `explain`, where the terms' embeddings came from.")


class EmbeddingsRequest(BaseModel):
    """OpenAI's. What its clients send beside these fields has no effect here."""

    input: Annotated[
        Input | Annotated[list[Input], Field(min_length=1, max_length=MAX_INPUTS)], BeforeValidator(_no_tokens)
    ] = Field(description="Texts; a `data:image/...;base64,` URI is a picture.")
    model: str = Field(max_length=200)
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None


class EmbeddingObject(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str = Field(description="Floats, or base64 of little-endian float32. Of length 1.")


class Usage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    object: Literal["list"] = "list"
    data: list[EmbeddingObject]
    model: str
    usage: Usage


class ModelObject(BaseModel):
    id: str = Field(examples=["flickr8k/1"])
    object: Literal["model"] = "model"
    created: int = Field(0, description="Not recorded, so always 0.")
    owned_by: str = "diptych"
    embedding_dim: int
    has_reranker: bool
    current: bool


class ModelObjects(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelObject]


class NewImage(Strict):
    """A line of ``POST /v1/images:bulk``."""

    image: Base64Image
    id: ImageId | None = None
    name: str = Field("image", min_length=1, max_length=255)
    captions: list[Text] = Field(default_factory=list, max_length=100)
    tags: list[Tag] = Field(default_factory=list, max_length=100)
    metadata: dict[str, Any] = Field(default_factory=dict)


class BulkResult(BaseModel):
    """What became of a line. ``line`` counts from 1."""

    line: int
    status: Literal["created", "replaced", "unchanged", "failed"]
    id: str | None = None
    duplicates: list[Duplicate] = Field(default_factory=list)
    problem: dict[str, Any] | None = Field(None, description="Problem details (RFC 9457), for a line that failed.")


class ExplainRequest(Strict):
    text: Text
    id: ImageId


class WordMap(BaseModel):
    word: str
    start: int = Field(description="Where the word begins in the text, in characters.")
    end: int
    peak: float = Field(
        description="Before stretching: what the matching logit loses, or the cosine, at the best place."
    )
    weights: list[list[float]] = Field(description="Rows of the grid, top to bottom; 0 to 1 over the whole picture.")


class ExplainAnswer(BaseModel):
    text: str
    id: str
    model_version: str
    method: Literal["occlusion", "similarity"] = Field(description="similarity where the model has no reranker.")
    rows: int
    columns: int
    words: list[WordMap]
