"""``manifest.json``: what an artifact is, what it is made of, and what it fits."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, Field, StringConstraints, TypeAdapter, ValidationError

from shared.schemas import Scoring, SealedShard

MANIFEST = "manifest.json"
TOWERS = "towers.safetensors"

# Names become folders, so they can neither be hidden nor lead anywhere.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
FilePath = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$", max_length=200)
]


class ArtifactError(Exception):
    """An artifact is missing, truncated, altered or of another format. Says which file and what to do."""


class FileEntry(BaseModel):
    sha256: str
    bytes: int = Field(ge=0)


class ImagePreprocessing(BaseModel):
    """Decode, turn by EXIF, RGB, squash to ``size`` x ``size``. ``(x / 255 - mean) / std`` happens inside the graph."""

    size: int
    resize: Literal["squash"] = "squash"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Tokenization(BaseModel):
    """``tokenizer.json`` (the tokenizers library's format) with truncation at ``max_length`` tokens."""

    file: FilePath = "tokenizer.json"
    max_length: int
    pad_id: int = 0


class _Common(BaseModel):
    format: Literal[1] = 1
    name: Name
    version: Name
    created_at: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    fingerprint: str
    embedding_dim: int = Field(ge=1)
    token_dim: int = Field(ge=1)
    metric: Literal["inner_product"] = "inner_product"
    files: dict[FilePath, FileEntry] = Field(default_factory=dict)

    @property
    def ref(self) -> str:
        return f"{self.name}/{self.version}"


class ModelManifest(_Common):
    """``config`` is what ``shared.models`` needs to build the torch modules; the graphs need only the rest."""

    kind: Literal["model"] = "model"
    preprocessing: ImagePreprocessing
    tokenization: Tokenization
    config: dict[str, Any]
    has_reranker: bool = False
    scoring: Scoring = Field(default_factory=Scoring)
    metrics: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)


class MilvusEngine(BaseModel):
    """Where an index's items are when it holds none: the collections ``PREFIX_images`` and ``PREFIX_captions``."""

    kind: Literal["milvus"] = "milvus"
    uri: Annotated[str, StringConstraints(pattern=r"^[^@]+$")]  # whoever reads a manifest learns no password
    prefix: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,199}$")]
    index_type: Literal["FLAT", "HNSW", "AUTOINDEX"] = "FLAT"


class IndexManifest(_Common):
    """``fingerprint`` is that of the model which made the vectors; ``model`` names it for people.

    ``photo_root`` is where the photos lay when the index was built; items hold paths under it. ``contents`` is a digest
    of which files and captions went in, so that building the same again can be noticed. Its items are in its files, or
    where ``engine`` says.
    """

    kind: Literal["index"] = "index"
    model: str
    photo_root: str
    collections: dict[str, int]
    contents: str
    library_seq: int = Field(0, ge=0, description="The last change of the library that went in.")
    shards: dict[str, SealedShard] = Field(default_factory=dict, description="How each collection is searched.")
    engine: MilvusEngine | None = None


Manifest = Annotated[ModelManifest | IndexManifest, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[ModelManifest | IndexManifest] = TypeAdapter(Manifest)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(directory: Path) -> dict[str, FileEntry]:
    """Every file of an artifact but its manifest, by name."""
    return {
        path.relative_to(directory).as_posix(): FileEntry(sha256=_sha256(path), bytes=path.stat().st_size)
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }


def fingerprint(directory: Path, manifest: ModelManifest) -> str:
    """Sha256 over all that decides stored vectors and tokens: tower weights, architecture, preprocessing, tokenizer.

    The reranker is left out on purpose: a new one on the same towers fits the index that is there.
    """
    decides = {
        "towers": _sha256(directory / TOWERS),
        "tokenizer": _sha256(directory / manifest.tokenization.file),
        "towers_config": manifest.config.get("towers"),
        "preprocessing": manifest.preprocessing.model_dump(mode="json"),
        "tokenization": manifest.tokenization.model_dump(mode="json"),
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def write_manifest(directory: Path, manifest: ModelManifest | IndexManifest) -> None:
    """Write ``manifest.json`` so that a crash leaves the old one or the new one, never half of one."""
    write_atomically(directory / MANIFEST, manifest.model_dump_json(indent=1) + "\n")


def read_manifest(directory: Path) -> ModelManifest | IndexManifest:
    """Raises :class:`ArtifactError` when there is none or it cannot be understood."""
    path = directory / MANIFEST
    try:
        return _ADAPTER.validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise ArtifactError(f"{directory} is not an artifact: it has no {MANIFEST}") from error
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error
    except ValidationError as error:
        raise ArtifactError(f"{path} is not a manifest this version understands: {error}") from error


def verify_files(directory: Path, manifest: ModelManifest | IndexManifest) -> None:
    """Check every listed file's size and sha256. Raises :class:`ArtifactError` naming the first that differs."""
    for name, entry in manifest.files.items():
        path = directory / name
        try:
            size = path.stat().st_size
            if size != entry.bytes:
                raise ArtifactError(
                    f"{directory}: {name} has {size} bytes, its manifest says {entry.bytes}: "
                    "the copy is incomplete; publish it again"
                )
            if _sha256(path) != entry.sha256:
                raise ArtifactError(
                    f"{directory}: {name} is not the file that was published (sha256 differs); publish it again"
                )
        except FileNotFoundError as error:
            raise ArtifactError(f"{directory}: {name} is missing; publish the artifact again") from error
        except OSError as error:
            raise ArtifactError(f"{path} cannot be read: {error}") from error


def write_atomically(path: Path, text: str, *, mode: int = 0o666) -> None:
    """Replace ``path`` in one step that survives a power cut. ``mode`` is less what the umask takes from it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames inside ``path`` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
