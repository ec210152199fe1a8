"""The model that comes with Diptych, so that a fresh clone answers without training."""

from __future__ import annotations

from pathlib import Path

from shared.artifacts import MANIFEST, ArtifactError, ArtifactStore, Ref

_FOLDER = Path(__file__).resolve().parent.parent / "artifacts"


def model() -> Path:
    """The shipped model artifact's folder. Raises :class:`ArtifactError` when this copy of Diptych has none."""
    found = sorted(path.parent for path in _FOLDER.glob(f"*/{MANIFEST}"))
    if not found:
        raise ArtifactError(f"no model ships in {_FOLDER}: train one (diptych train dual) and publish it")
    return found[0]


def current_model(store: Path) -> Path:
    """The model that the store points to, or the shipped one when it points to none."""
    shelf = ArtifactStore(store)
    current = shelf.current()
    return shelf.path("model", Ref.parse(current.model)) if current else model()
