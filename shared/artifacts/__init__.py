"""Artifacts: directories with a manifest, published side by side, one pointer saying which pair is served."""

from shared.artifacts.manifest import (
    MANIFEST,
    ArtifactError,
    FileEntry,
    ImagePreprocessing,
    IndexManifest,
    Manifest,
    ModelManifest,
    Tokenization,
    fingerprint,
    hash_files,
    read_manifest,
    verify_files,
    write_manifest,
)
from shared.artifacts.store import ArtifactStore, Deployment, Ref, RefusedError

__all__ = [
    "MANIFEST",
    "ArtifactError",
    "ArtifactStore",
    "Deployment",
    "FileEntry",
    "ImagePreprocessing",
    "IndexManifest",
    "Manifest",
    "ModelManifest",
    "Ref",
    "RefusedError",
    "Tokenization",
    "fingerprint",
    "hash_files",
    "read_manifest",
    "verify_files",
    "write_manifest",
]
