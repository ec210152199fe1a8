"""The artifact store: published versions side by side, and ``current.json``, the one pointer that services follow.

::

    store/models/<name>/<version>/      store/indexes/<name>/<version>/      store/current.json
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from shared.artifacts.manifest import (
    MANIFEST,
    ArtifactError,
    IndexManifest,
    ModelManifest,
    Name,
    read_manifest,
    sync_directory,
    verify_files,
    write_atomically,
    write_manifest,
)

Kind = Literal["model", "index"]
_FOLDER: dict[Kind, str] = {"model": "models", "index": "indexes"}
_NAME: TypeAdapter[str] = TypeAdapter(Name)
_PARTIAL = ".partial"
_HISTORY = 50


class RefusedError(ArtifactError):
    """The store will not do this: the parts do not fit, or something still needs them. Nothing was changed."""


class Ref(NamedTuple):
    """``name/version``."""

    name: str
    version: str

    @staticmethod
    def parse(text: str) -> Ref:
        """Raises :class:`RefusedError` for what no manifest could be called, such as ``../1``."""
        name, _, version = text.partition("/")
        try:
            return Ref(_NAME.validate_python(name), _NAME.validate_python(version))
        except ValidationError as error:
            raise RefusedError(
                f"{text[:200]!r} does not name an artifact: write NAME/VERSION, as in flickr8k/1, in letters, digits, "
                "dots, dashes and underscores"
            ) from error

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


class Deployment(BaseModel):
    """A model and an index that belong together (``fingerprint``). ``index`` is None before the first one is built."""

    model: str
    index: str | None
    fingerprint: str
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))


class _Pointer(BaseModel):
    """``current.json``. The last of ``deployments`` is current; those before it are what rollback goes back to."""

    deployments: list[Deployment]


class ArtifactStore:
    """A store on a local or shared file system. Any number of readers; writers take turns by a lock file."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def pointer(self) -> Path:
        return self.root / "current.json"

    def path(self, kind: Kind, ref: Ref) -> Path:
        """Where a version lies, whether or not it exists. Raises :class:`RefusedError` for a name outside the store."""
        name, version = Ref.parse(str(ref))
        return self.root / _FOLDER[kind] / name / version

    def model(self, ref: Ref) -> ModelManifest:
        """The manifest of a published model. Raises :class:`ArtifactError` when there is none."""
        manifest = self._manifest("model", ref)
        assert isinstance(manifest, ModelManifest)
        return manifest

    def index(self, ref: Ref) -> IndexManifest:
        """The manifest of a published index. Raises :class:`ArtifactError` when there is none."""
        manifest = self._manifest("index", ref)
        assert isinstance(manifest, IndexManifest)
        return manifest

    def published(self, kind: Kind) -> list[ModelManifest | IndexManifest]:
        """All published versions of a kind, oldest first. A folder that holds something else is passed over."""
        found = []
        for path in self.root.glob(f"{_FOLDER[kind]}/*/*/{MANIFEST}"):
            with suppress(ArtifactError):  # a damaged version must not stand in the way of the others
                found.append(self._manifest(kind, Ref(*path.parts[-3:-1])))
        # One artifact published under several versions has one time of creation; of two numbers the shorter is smaller.
        return sorted(found, key=lambda manifest: (manifest.created_at, len(manifest.version), manifest.version))

    def verify(self, kind: Kind, ref: Ref) -> None:
        """Check every byte of a published version. Raises :class:`ArtifactError`."""
        verify_files(self.path(kind, ref), self._manifest(kind, ref))

    def next_version(self, kind: Kind, name: str) -> str:
        """One more than the highest number in use."""
        folder = self.root / _FOLDER[kind] / name
        numbers = [int(path.name) for path in folder.glob("*") if path.name.isdigit()]
        return str(max(numbers, default=0) + 1)

    def publish(self, source: Path, *, version: str | None = None) -> ModelManifest | IndexManifest:
        """Copy an artifact in, as ``version`` or the one its manifest names. It is there whole or not at all.

        Publishing what is already there changes nothing, except that a damaged copy is replaced. Raises
        :class:`RefusedError` when that version is taken by something else, :class:`ArtifactError` when the source is
        damaged or the store cannot be written.
        """
        manifest = read_manifest(source)
        verify_files(source, manifest)
        if version is not None:
            manifest = manifest.model_copy(update={"version": version})
        target = self.path(manifest.kind, Ref(manifest.name, manifest.version))
        with self._writing():
            if target.exists():
                there = read_manifest(target)
                if not _same(there, manifest):
                    raise RefusedError(f"{manifest.kind} {manifest.ref} is already published; give it another version")
                with suppress(ArtifactError):
                    verify_files(target, there)
                    return there
            for left in target.parent.glob(f".*{_PARTIAL}"):  # by one that was killed: nobody else writes now
                shutil.rmtree(left)
            beside = target.with_name(f".{target.name}{_PARTIAL}")
            try:
                beside.mkdir(parents=True)
                for name in manifest.files:
                    destination = beside / name
                    destination.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source / name, destination)
                    with destination.open("rb") as file:
                        os.fsync(file.fileno())
                write_manifest(beside, manifest)
                verify_files(beside, manifest)
                if target.exists():
                    shutil.rmtree(target)
                beside.rename(target)
            finally:
                shutil.rmtree(beside, ignore_errors=True)
            sync_directory(target.parent)
        return manifest

    def current(self) -> Deployment | None:
        """What services should serve, or None before the first activation."""
        return next(reversed(self._deployments()), None)

    def recent(self) -> list[Deployment]:
        """The current deployment, last, and the one before it: what a rollback would need at once."""
        return self._deployments()[-2:]

    def activate(self, model: Ref, index: Ref | None) -> Deployment:
        """Point services at a pair; nothing changes when they are there already.

        Raises :class:`RefusedError` when the index was built by another model.
        """
        with self._writing():
            chosen = self._pair(model, index)
            deployments = self._deployments()
            if deployments and deployments[-1].model_copy(update={"at": chosen.at}) == chosen:
                return deployments[-1]
            self._point([*deployments, chosen])
        return chosen

    def rollback(self) -> Deployment:
        """Point services at the deployment before this one."""
        with self._writing():
            deployments = self._deployments()
            if len(deployments) < 2:
                raise RefusedError("there is no earlier deployment to go back to")
            before = deployments[-2]
            self._pair(Ref.parse(before.model), Ref.parse(before.index) if before.index else None)
            self._point(deployments[:-1])
        return before

    def prune(self, keep: int) -> list[str]:
        """Delete all but the newest ``keep`` versions of each name. What is current, or was just before, stays."""
        if keep < 1:
            raise RefusedError(f"keep must be at least 1, not {keep}")
        with self._writing():
            recent = self._deployments()[-2:]
            needed = {("model", d.model) for d in recent} | {("index", d.index) for d in recent}
            removed = []
            for kind in _FOLDER:
                by_name: dict[str, list[ModelManifest | IndexManifest]] = {}
                for manifest in self.published(kind):
                    by_name.setdefault(manifest.name, []).append(manifest)
                for manifests in by_name.values():
                    for manifest in manifests[:-keep]:
                        if (kind, manifest.ref) not in needed:
                            shutil.rmtree(self.path(kind, Ref.parse(manifest.ref)))
                            removed.append(f"{kind} {manifest.ref}")
        return removed

    def _manifest(self, kind: Kind, ref: Ref) -> ModelManifest | IndexManifest:
        path = self.path(kind, ref)
        manifest = read_manifest(path)
        if (manifest.kind, manifest.ref) != (kind, str(ref)):
            raise ArtifactError(f"{path} holds {manifest.kind} {manifest.ref}, not {kind} {ref}; publish that again")
        return manifest

    def _pair(self, model: Ref, index: Ref | None) -> Deployment:
        model_manifest = self.model(model)
        if index is not None:
            index_manifest = self.index(index)
            if index_manifest.fingerprint != model_manifest.fingerprint:
                raise RefusedError(
                    f"index {index} was built by model {index_manifest.model} (fingerprint "
                    f"{index_manifest.fingerprint[:12]}), not by {model} ({model_manifest.fingerprint[:12]}): "
                    "their vectors cannot be compared. Build an index with this model first: "
                    f"diptych index build --model {model}"
                )
        return Deployment(model=str(model), index=str(index) if index else None, fingerprint=model_manifest.fingerprint)

    def _deployments(self) -> list[Deployment]:
        try:
            return _Pointer.model_validate_json(self.pointer.read_bytes()).deployments
        except FileNotFoundError:
            return []
        except ValidationError as error:
            raise ArtifactError(f"{self.pointer} cannot be understood: {error}") from error

    def _point(self, deployments: list[Deployment]) -> None:
        pointer = _Pointer(deployments=deployments[-_HISTORY:])
        write_atomically(self.pointer, pointer.model_dump_json(indent=1) + "\n")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with (self.root / ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise ArtifactError(f"the store {self.root} cannot be written: {error}") from error


def _same(one: ModelManifest | IndexManifest, other: ModelManifest | IndexManifest) -> bool:
    """Whether two manifests say the same but for the time they were written."""
    return one.model_copy(update={"created_at": other.created_at}) == other
