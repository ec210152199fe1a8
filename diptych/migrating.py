"""Publishing an index again in another engine."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from shared.artifacts import ArtifactError, ArtifactStore, IndexManifest, Ref, write_manifest
from shared.artifacts.manifest import MilvusEngine
from shared.collections.migration import Side, copy, in_files, in_milvus, seal, verify
from shared.settings import MilvusSettings


class Move:
    """The way of the published index ``ref`` into another engine. Its model, photo folder and the last change of the
    library that went in stay, so what was put in since is taken in from the library as before.

    Raises :class:`ArtifactError`, and ValueError for an item that the other engine cannot keep.
    """

    def __init__(self, store: ArtifactStore, ref: Ref, access: MilvusSettings, work: Path, console: Console) -> None:
        self._store = store
        self._access = access
        self._console = console
        self._manifest = store.index(ref)
        store.verify("index", ref)
        self._directory = store.path("index", ref)
        # The same for the same index, whenever the command is given again.
        facts = f"{ref} {self._manifest.created_at.isoformat()} {self._manifest.contents}"
        self._mark = hashlib.sha256(facts.encode()).hexdigest()[:12]
        self._work = work / f"migrate-{ref.name}-{ref.version}-{self._mark}"

    def to_milvus(self, uri: str, index_type: Literal["FLAT", "HNSW", "AUTOINDEX"]) -> Ref:
        """``uri`` is of a server, or a local file."""
        if "@" in uri:
            raise ArtifactError("--uri: leave user and password out, and set DIPTYCH_MILVUS_TOKEN=USER:PASSWORD")
        if "://" not in uri:
            path = Path(uri).resolve()
            if path.suffix != ".db":
                raise ArtifactError(f"--uri: {uri!r} is neither http://HOST:PORT nor a file that ends in .db")
            path.parent.mkdir(parents=True, exist_ok=True)
            uri = str(path)
        if self._manifest.engine is not None:
            raise ArtifactError(f"index {self._manifest.ref} is in Milvus already; migrate it --to embedded first")
        prefix = f"diptych_{re.sub('[^A-Za-z0-9_]', '_', self._manifest.name)}_{self._mark}_{index_type.lower()}"
        engine = MilvusEngine(uri=uri, prefix=prefix, index_type=index_type)
        for there in self._store.published("index"):
            if isinstance(there, IndexManifest) and there.engine == engine:
                self._console.print(f"index {self._manifest.ref} is there already, as {there.ref}")
                return Ref.parse(there.ref)
        # What is given to this command holds for it alone: a service has its own way to Milvus.
        access = self._access.model_copy(update={"milvus_uri": None})
        target = in_milvus(self._moved(engine), access, writable=True)
        source = self._source()
        self._tell("copying", copy, source, target)
        self._tell("comparing", verify, source, target)
        self._work.mkdir(parents=True, exist_ok=True)
        return self._publish(self._work, self._moved(engine))

    def to_files(self) -> Ref:
        if self._manifest.engine is None:
            raise ArtifactError(f"index {self._manifest.ref} is in files already")
        self._work.mkdir(parents=True, exist_ok=True)
        source = self._source()
        self._tell("copying", copy, source, in_files(self._work, self._manifest, writable=True))
        sealed = self._work / "sealed"
        moved = seal(self._work, sealed, self._moved(None))
        self._tell("comparing", verify, source, in_files(sealed, moved))
        return self._publish(sealed, moved)

    def activate(self, moved: Ref) -> None:
        """With the model that is being served, if the index is of it, or the one that built it."""
        current = self._store.current()
        same = current is not None and current.fingerprint == self._manifest.fingerprint
        self._store.activate(Ref.parse(current.model if current and same else self._manifest.model), moved)

    def _source(self) -> Mapping[str, Side]:
        if self._manifest.engine is None:
            return in_files(self._directory, self._manifest)
        return in_milvus(self._manifest, self._access)

    def _moved(self, engine: MilvusEngine | None) -> IndexManifest:
        version = self._store.next_version("index", self._manifest.name)
        changes: dict[str, Any] = {
            "version": version,
            "engine": engine,
            "files": {},
            "shards": {},
            "created_at": datetime.now(UTC),
        }
        return self._manifest.model_copy(update={**changes, "files": {}, "shards": {}})

    def _publish(self, folder: Path, manifest: IndexManifest) -> Ref:
        write_manifest(folder, manifest)
        self._store.publish(folder)
        shutil.rmtree(self._work)
        return Ref.parse(manifest.ref)

    def _tell(self, doing: str, job: Callable[..., None], *sides: Mapping[str, Side]) -> None:
        columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task("", total=sum(side.count() for side in sides[0].values()))
            job(*sides, self._manifest.collections, lambda done: progress.advance(task, done))
