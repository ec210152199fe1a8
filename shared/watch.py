"""Following the store's pointer: load what it names beside what is served, then switch, and let the old finish."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from prometheus_client import Gauge

from shared.artifacts import ArtifactError, ArtifactStore, Deployment
from shared.problems import Problem
from shared.telemetry import log

T = TypeVar("T")

VERSION_INFO = Gauge("diptych_version_info", "1 for the version that is served, 0 for others in memory.", ["version"])
VERSION_PROBLEM = Gauge("diptych_version_problem", "1 while the version that the store points to is not served.")


class VersionWatcher(Generic[T]):
    """Keeps the current version of a kind of artifact loaded, and replaced ones for ``retire_seconds`` more.

    ``key`` picks the version (``name/version``) of a deployment that matters here, or None when it has none; ``load``
    reads it, in a thread, and may raise :class:`ArtifactError`, in which case what is served goes on being served,
    ``problem`` says why, and it is tried again when the pointer moves or after ``retry_seconds``.
    """

    def __init__(
        self,
        store: ArtifactStore,
        key: Callable[[Deployment], str | None],
        load: Callable[[Deployment], T],
        *,
        missing: str,
        poll_seconds: float,
        retire_seconds: float,
        retry_seconds: float = 30.0,
    ) -> None:
        self._store = store
        self._key = key
        self._load = load
        self.missing = missing
        self._poll_seconds = poll_seconds
        self._retire_seconds = retire_seconds
        self._loaded: dict[str, T] = {}
        self._retired: dict[str, float] = {}
        self._retry_seconds = retry_seconds
        self._refused: Deployment | None = None
        self._retry_at = 0.0
        self.current_ref: str | None = None
        self.problem: str | None = "starting: the store has not been looked at yet"

    @property
    def loaded(self) -> Mapping[str, T]:
        """Every version that answers, by ``name/version``."""
        return self._loaded

    def get(self, ref: str | None) -> tuple[str, T]:
        """The version asked for, or the current one. Raises ``not-ready`` or ``unknown-version``."""
        if ref is None:
            if self.current_ref is None:
                raise Problem("not-ready", self.problem or self.missing, retry_after=1)
            ref = self.current_ref
        if ref not in self._loaded:
            raise Problem("unknown-version", f"version {ref} is not loaded here; loaded: {sorted(self._loaded)}")
        return ref, self._loaded[ref]

    async def run(self) -> None:
        """Follow the pointer until cancelled."""
        while True:
            await self.look()
            self._report()
            await asyncio.sleep(self._poll_seconds)

    def _report(self) -> None:
        VERSION_PROBLEM.set(self.problem is not None)
        VERSION_INFO.clear()
        for ref in self._loaded:
            VERSION_INFO.labels(ref).set(ref == self.current_ref)

    async def look(self) -> None:
        """Compare what is served with the pointer once, and load what is new."""
        try:
            recent = await asyncio.to_thread(self._store.recent)
        except (ArtifactError, OSError) as error:
            self.problem = str(error)
            return
        wanted = recent[-1] if recent else None
        ref = self._key(wanted) if wanted is not None else None
        if wanted is None or ref is None:
            self.problem = self.missing
            return
        if ref == self.current_ref:
            self.problem = self._refused = None
        elif wanted != self._refused or time.monotonic() >= self._retry_at:
            await self._switch(ref, wanted)
        self._retire({self._key(deployment) for deployment in recent})

    async def _switch(self, ref: str, wanted: Deployment) -> None:
        started = time.monotonic()
        if self.current_ref is None and wanted != self._refused:
            self.problem = f"{ref} is being loaded"
        try:
            if ref not in self._loaded:
                self._loaded[ref] = await asyncio.to_thread(self._load, wanted)
        except Exception as error:  # one bad artifact must not end the watch
            # Not at every look: reading it is work, and the same bytes would fail the same way.
            self._refused, self.problem = wanted, f"{ref} cannot be served: {error}"
            self._retry_at = time.monotonic() + self._retry_seconds
            log.error("version refused", version=ref, still_serving=self.current_ref, error=str(error))
            return
        before, self.current_ref, self.problem, self._refused = self.current_ref, ref, None, None
        self._retired.pop(ref, None)
        if before is not None:
            self._retired[before] = time.monotonic() + self._retire_seconds
        log.info("version served", version=ref, before=before, seconds=round(time.monotonic() - started, 2))

    def _retire(self, kept: set[str | None]) -> None:
        """Let go of what was replaced long enough ago, but for the deployment before the current one: a neighbour may
        have refused what replaced it."""
        over = [ref for ref, until in self._retired.items() if time.monotonic() >= until and ref not in kept]
        for ref in over:
            del self._retired[ref], self._loaded[ref]
            log.info("version retired", version=ref)
