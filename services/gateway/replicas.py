"""Several encoders as one: who is asked, who is left alone for a while, and who is asked instead.

Least outstanding requests (Mitzenmacher, The Power of Two Choices, 2001, of all replicas, as there are few), and
ejection of outliers as service meshes do it.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import aiohttp

from services.gateway import metrics
from services.gateway.addresses import Address, look_all_up, split
from services.gateway.neighbours import Neighbour, PhotoFile, UnavailableError
from shared.problems import Problem
from shared.schemas import EncoderStatus, ServedModel
from shared.telemetry import log

LOOK_UP_SECONDS = 5.0
FAILURES = 3  # in a row, of a replica that answers and yet fails
ASIDE_SECONDS = 2.0

# A replica is slow when the median of its answers of one kind takes so many times the median of the others', and so
# many seconds longer: a pause of a few milliseconds is nothing.
SLOW_TIMES = 4.0
SLOW_SECONDS = 0.05
SLOW_SAMPLES = 5
SLOW_WINDOW_SECONDS = 10.0
SLOW_ASIDE_SECONDS = 10.0  # twice as long each time in a row
MOST_ASIDE_SECONDS = 60.0

Key = tuple[str, str]


def _key(model: ServedModel) -> Key:
    return model.ref, model.fingerprint


class Replica(Neighbour):
    """One encoder, and how it has done lately."""

    name = "encoder"

    def __init__(self, session: aiohttp.ClientSession, address: Address, *, connect_seconds: float) -> None:
        super().__init__(session, address.url, connect_seconds=connect_seconds)
        self._headers = {"Host": address.host} if address.host else {}
        self.outstanding = 0
        self.status: EncoderStatus | None = None  # as of the last look, None when that failed
        self.problem: Problem | None = None  # of a look that failed
        self.holds: set[Key] = set()
        self.lately: defaultdict[str, deque[tuple[float, float]]] = defaultdict(lambda: deque(maxlen=64))
        self.slow = 0  # times in a row that it was found slow
        self._failures = 0
        self.is_down = False
        self._until = 0.0
        self._look: asyncio.Task[None] | None = None
        self._seconds = metrics.ENCODER_SECONDS.labels(self.url)
        metrics.ENCODER_OUTSTANDING.labels(self.url).set_function(lambda: self.outstanding)
        metrics.ENCODER_EJECTED.labels(self.url).set_function(lambda: self.is_aside)

    def forget(self) -> None:
        """It is a replica no more."""
        for metric in (metrics.ENCODER_OUTSTANDING, metrics.ENCODER_EJECTED, metrics.ENCODER_SECONDS):
            with suppress(KeyError):
                metric.remove(self.url)

    @property
    def is_aside(self) -> bool:
        """Whether others are asked first. One that was slow is asked one thing at a time until it is seen not to be."""
        return self.is_down or time.monotonic() < self._until or (self.slow > 0 and self.outstanding > 0)

    def look(self) -> asyncio.Task[None]:
        """What it has loaded: one look at a time, for who is put aside too."""
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._looked())
        return self._look

    async def _looked(self) -> None:
        try:
            self.status = await self._status(EncoderStatus)
        except Problem as problem:
            self.status, self.holds, self.problem = None, set(), problem
            self._put_down(problem)
            return
        self.is_down = False
        self.holds = {_key(model) for model in self.status.models}

    async def post(self, path: str, seconds: float, **options: Any) -> PhotoFile:
        """The body of a good answer. Raises :class:`Problem`."""
        if self._headers:
            options["headers"] = {**options.get("headers", {}), **self._headers}
        self.outstanding += 1
        began = time.monotonic()
        try:
            answer = await self._ask("POST", path, seconds, **options)
        finally:
            self.outstanding -= 1
        ended = time.monotonic()
        self._failures = 0
        self._seconds.observe(ended - began)
        self.lately[path].append((ended, ended - began))
        return answer

    def failed(self, problem: Problem, model: ServedModel) -> bool:
        """Note what came of asking. Whether another replica may answer what this one did not."""
        if problem.slug == "unknown-version":
            self.holds.discard(_key(model))
            return True
        if problem.status != 503:
            self._failures = 0
            return False
        if not isinstance(problem, UnavailableError):  # overloaded, or with nothing loaded
            self._put_aside(problem.retry_after or ASIDE_SECONDS)
        elif problem.dropped:
            self._put_down(problem)
        else:
            self._failures += 1
            if self._failures >= FAILURES:
                self._put_aside(ASIDE_SECONDS)
        return True

    def found_slow(self, seconds: float, others: float) -> None:
        self.slow += 1
        self.lately.clear()
        pause = min(SLOW_ASIDE_SECONDS * 2 ** (self.slow - 1), MOST_ASIDE_SECONDS)
        self._put_aside(pause)
        log.warning("slow encoder put aside", replica=self.url, seconds=seconds, others=others, pause=pause)

    def _put_aside(self, seconds: float) -> None:
        self._until = max(self._until, time.monotonic() + seconds)

    def _put_down(self, problem: Problem) -> None:
        if not self.is_down:
            log.warning("encoder put aside", replica=self.url, reason=problem.detail)
        self.is_down = True  # until it is seen to answer


class Replicas:
    """The encoders at ``urls``, each address of a name that has several among them."""

    def __init__(self, session: aiohttp.ClientSession, urls: str, *, connect_seconds: float) -> None:
        self._session = session
        self._connect_seconds = connect_seconds
        self._urls = split(urls)
        self._addresses = {url: [Address(url)] for url in self._urls}
        self._looked_up = float("-inf")
        self._turn = 0
        self._all: dict[Address, Replica] = {}
        self._set()

    def __len__(self) -> int:
        return len(self._all)

    def _set(self) -> None:
        before = self._all
        wanted = dict.fromkeys(address for found in self._addresses.values() for address in found)
        for address in before.keys() - wanted.keys():
            before[address].forget()
        self._all = {
            address: before.get(address) or Replica(self._session, address, connect_seconds=self._connect_seconds)
            for address in wanted
        }
        if before and self._all.keys() != before.keys():
            log.info("encoders", replicas=[address.url for address in self._all])

    async def status(self) -> tuple[EncoderStatus, Counter[str]]:
        """What the replicas have together, and how many of them have each model. Raises :class:`Problem` when none
        answers.

        Who answered last time is waited for; who did not is looked at meanwhile, and counts once it answers.
        """
        if time.monotonic() - self._looked_up > LOOK_UP_SECONDS:
            self._addresses = await look_all_up(self._urls, self._addresses)
            self._looked_up = time.monotonic()
            self._set()
        replicas = list(self._all.values())
        were_there = [replica for replica in replicas if replica.status is not None]
        looks = {replica: replica.look() for replica in replicas}
        for waited_for in (were_there or replicas, replicas):
            await asyncio.wait([looks[replica] for replica in waited_for])
            if statuses := [replica.status for replica in replicas if replica.status is not None]:
                self._eject_slow()
                return merged(statuses)
        raise next(replica.problem for replica in replicas if replica.problem is not None)

    async def post(self, model: ServedModel, path: str, seconds: float, **options: Any) -> PhotoFile:
        """The answer of who has the least to do of those that have ``model``, or of another where the first fails:
        what encoders are asked can be asked twice. Raises :class:`Problem`."""
        first = self.choose(model)
        if len(self._all) == 1:
            try:
                return await first.post(path, seconds, **options)
            except Problem as problem:
                first.failed(problem, model)
                raise
        began = time.monotonic()
        try:
            # Half of the time: who is silent may be gone, and another must have time to answer.
            return await first.post(path, seconds / 2, **options)
        except Problem as problem:
            if not first.failed(problem, model):
                raise
            second = self.choose(model, but=first)
            if second.is_aside and problem.slug == "overloaded":
                raise  # all are
        metrics.ENCODER_RETRIED.inc()
        try:
            return await second.post(path, seconds - (time.monotonic() - began), **options)
        except Problem as problem:
            second.failed(problem, model)
            raise

    def choose(self, model: ServedModel, but: Replica | None = None) -> Replica:
        """The replica with the fewest requests of ours; of equals each in its turn."""
        replicas = list(self._all.values())
        if len(replicas) == 1:
            return replicas[0]
        key = _key(model)
        able = [one for one in replicas if one is not but and key in one.holds] or [r for r in replicas if r is not but]
        able = [one for one in able if not one.is_aside] or [one for one in able if not one.is_down] or able
        self._turn += 1
        start = self._turn % len(able)
        return min(able[start:] + able[:start], key=lambda one: one.outstanding)

    def _eject_slow(self) -> None:
        """Put aside who takes much longer than the others, but never all."""
        since = time.monotonic() - SLOW_WINDOW_SECONDS
        paths = {path for replica in self._all.values() for path in replica.lately}
        for path in sorted(paths):
            medians = {one: median for one in self._all.values() if (median := _median(one, path, since)) is not None}
            for replica, its in medians.items():
                others = [seconds for one, seconds in medians.items() if one is not replica and not one.is_aside]
                if not others:
                    continue
                usual = statistics.median(others)
                if its > SLOW_TIMES * usual and its > usual + SLOW_SECONDS:
                    replica.found_slow(its, usual)
                else:
                    replica.slow = 0


def _median(replica: Replica, path: str, since: float) -> float | None:
    lately = [seconds for when, seconds in replica.lately[path] if when >= since]
    return statistics.median(lately) if len(lately) >= SLOW_SAMPLES else None


def merged(statuses: Sequence[EncoderStatus]) -> tuple[EncoderStatus, Counter[str]]:
    """Every model that somebody has, the version that most point to, and how many have each version."""
    models = {_key(model): model for status in statuses for model in status.models}
    holders = Counter(model.ref for status in statuses for model in status.models)
    currents = Counter(status.current for status in statuses if status.current is not None)
    together = EncoderStatus(
        engine=statuses[0].engine,
        current=currents.most_common(1)[0][0] if currents else None,
        models=list(models.values()),
        problem=next((status.problem for status in statuses if status.problem), None),
    )
    return together, holders
