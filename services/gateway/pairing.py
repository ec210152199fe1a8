"""Which model and index answer together.

The neighbours switch versions each in their own time, and keep the old one for a while. Their status documents say what
each has in memory; a pair is a model and an index with equal fingerprints.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TypeVar

from services.gateway import metrics
from services.gateway.encoder import Encoder
from services.gateway.neighbours import Index, UnavailableError
from shared.problems import Problem
from shared.schemas import EncoderStatus, IndexStatus, ServedIndex, ServedModel
from shared.telemetry import log

T = TypeVar("T")


@dataclass(frozen=True)
class Pair:
    model: ServedModel
    index: ServedIndex

    @cached_property
    def key(self) -> str:
        """Names the pair in the cache. It covers all that the services say of the two versions: stores that share one
        Redis and happen to use the same version numbers do not answer for each other."""
        said = self.model.model_dump_json() + self.index.model_dump_json()
        return hashlib.sha256(said.encode()).hexdigest()

    def same_versions(self, other: Pair | None) -> bool:
        return other is not None and (self.model.ref, self.index.ref) == (other.model.ref, other.index.ref)


def choose(
    encoder: EncoderStatus, index: IndexStatus, last: Pair | None, holders: Mapping[str, int] = MappingProxyType({})
) -> Pair | None:
    """The pair to use, None when no model fits an index. ``holders`` counts the replicas that have each model.

    That of which most replicas have the model, lest the first of many to load a new one gets all the work. Of those:
    Both neighbours' current versions when they fit; else the index's current version, for which the encoder still has
    the model; else what was used last; else the encoder's current model. Whichever comes first in a switch, there is
    always a pair that both sides still hold.
    """
    fitting = [
        Pair(model, served)
        for served in index.indexes
        for model in encoder.models
        if model.fingerprint == served.fingerprint
    ]

    def preference(pair: Pair) -> tuple[int, ...]:
        index_is_current = pair.index.ref == index.current
        model_is_current = pair.model.ref == encoder.current
        return (
            holders.get(pair.model.ref, 0),
            index_is_current and model_is_current,
            index_is_current and pair.same_versions(last),
            index_is_current,
            pair.same_versions(last),
            model_is_current,
        )

    return max(fitting, key=preference, default=None)


def mismatch(encoder: EncoderStatus, index: IndexStatus) -> Problem:
    """Why :func:`choose` found no pair, and what to do about it."""
    models = ", ".join(f"{model.ref} ({model.fingerprint[:12]})" for model in encoder.models)
    indexes = ", ".join(f"{served.ref} (built by {served.fingerprint[:12]})" for served in index.indexes)
    return Problem(
        "model-index-mismatch",
        f"the encoder has model {models} and the index service has index {indexes}, which do not belong together: "
        "build an index with that model (diptych index build), or go back (diptych artifacts rollback)",
        retry_after=1,
    )


def missing(neighbour: Encoder | Index, status: EncoderStatus | IndexStatus | BaseException) -> Problem | None:
    """What keeps a neighbour from answering, judged by its status or by how asking for it failed."""
    if isinstance(status, Problem):
        return status
    if isinstance(status, BaseException):
        raise status
    if status.models if isinstance(status, EncoderStatus) else status.indexes:
        return None
    reason = status.problem or "it is still loading"
    return Problem("not-ready", f"the {neighbour.name} at {neighbour.url} has nothing loaded: {reason}", retry_after=1)


class Pairing:
    """Watches both neighbours and holds the pair that requests are pinned to."""

    def __init__(self, encoder: Encoder, index: Index, *, poll_seconds: float) -> None:
        self._encoder = encoder
        self._index = index
        self._poll_seconds = poll_seconds
        self._look: asyncio.Task[None] | None = None
        self._missing: dict[str, Problem] = {}
        # The last status with something in it is kept while a neighbour is away or starting: it most likely comes back
        # with the same versions, and what is in the cache can be answered until then.
        self.encoder: EncoderStatus | None = None
        self.index: IndexStatus | None = None
        self.current: Pair | None = None
        # The last change that was heard of, by index: a status that was asked for before it must not hide it.
        self._revisions: dict[str, int] = {}

    def changed(self, ref: str, revision: int) -> None:
        """The index of this version holds this change: what is cached from before it is not an answer any more."""
        self._revisions[ref] = max(revision, self._revisions.get(ref, 0))
        if self.current is not None and self.current.index.ref == ref:
            self.current = self._up_to_date(self.current)

    def _up_to_date(self, pair: Pair) -> Pair:
        known = self._revisions.get(pair.index.ref, 0)
        if known <= pair.index.revision:
            return pair
        return Pair(pair.model, pair.index.model_copy(update={"revision": known}))

    async def watch(self) -> None:
        """Look at both neighbours again and again, until cancelled."""
        try:
            while True:
                await self.refresh()
                await asyncio.sleep(self._poll_seconds)
        finally:
            if self._look is not None:
                self._look.cancel()

    async def refresh(self) -> None:
        """Look at both neighbours now. Callers at the same time share one look."""
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._look_at_both())
        await asyncio.shield(self._look)

    async def pair(self) -> Pair:
        """The pair to answer with. Raises :class:`Problem` saying what is missing."""
        if self.current is None:
            await self.refresh()
        if self.current is None:
            raise next(iter(self._problems()))
        return self.current

    async def run(self, work: Callable[[Pair], Awaitable[T]]) -> T:
        """Do ``work`` with the current pair, and once more after another look when the pair has just gone.

        A neighbour that went from one version to the next, or was started again, between our last look at it and this
        request, costs the request nothing else.
        """
        try:
            return await work(await self.pair())
        except Problem as problem:
            if not (problem.slug == "unknown-version" or (isinstance(problem, UnavailableError) and problem.dropped)):
                raise
        await self.refresh()
        try:
            return await work(await self.pair())
        except Problem as problem:
            if problem.slug != "unknown-version":
                raise
            raise Problem("not-ready", "the services are changing versions; ask again", retry_after=1) from problem

    async def problems(self) -> list[str]:
        """What keeps searches from being answered, in sentences."""
        await self.refresh()
        return [problem.detail for problem in self._problems()]

    def _problems(self) -> list[Problem]:
        found = list(self._missing.values())
        if not found and self.current is None and self.encoder is not None and self.index is not None:
            found = [mismatch(self.encoder, self.index)]
        return found

    async def _look_at_both(self) -> None:
        encoder, index = await asyncio.gather(self._encoder.status(), self._index.status(), return_exceptions=True)
        if self._is_there(self._encoder, encoder):
            assert isinstance(encoder, EncoderStatus)
            self.encoder = encoder
        if self._is_there(self._index, index):
            assert isinstance(index, IndexStatus)
            self.index = index
        if self.encoder is not None and self.index is not None:
            self._pin(choose(self.encoder, self.index, self.current, self._encoder.holders))

    def _is_there(self, neighbour: Encoder | Index, status: EncoderStatus | IndexStatus | BaseException) -> bool:
        was_there = neighbour.name not in self._missing
        problem = missing(neighbour, status)
        if problem is None:
            self._missing.pop(neighbour.name, None)
        else:
            self._missing[neighbour.name] = problem
            if was_there:
                log.warning("neighbour missing", neighbour=neighbour.name, reason=problem.detail)
        metrics.NEIGHBOUR_UP.labels(neighbour.name).set(problem is None)
        return problem is None

    def _pin(self, pair: Pair | None) -> None:
        before, self.current = self.current, pair and self._up_to_date(pair)
        if pair is None and before is not None:
            log.warning("no pair", reasons=[problem.detail for problem in self._problems()])
        elif pair is not None and not pair.same_versions(before):
            log.info("pair", model=pair.model.ref, index=pair.index.ref)
        metrics.PAIR_INFO.clear()
        if pair is not None:
            metrics.PAIR_INFO.labels(pair.model.ref, pair.index.ref).set(1)
