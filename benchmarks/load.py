"""Load over HTTP, out of a process of its own: callers that each wait for their answer (closed loop), or requests that
come whether or not anything answers (open loop)."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Coroutine
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any, Self

import aiohttp
import uvloop

from benchmarks.questions import Questions
from benchmarks.statistics import percentiles_ms
from shared.problems import MEDIA_TYPE

# Questions of one run are never those of another: each starts this much further.
_APART = 1_000_000_000
_DEGRADED = "X-Diptych-Degraded"
_FIELDS = {"type", "title", "status", "detail"}


@dataclass(frozen=True)
class Plan:
    """``concurrency`` callers in a closed loop, or ``rate`` requests a second in an open one, for ``seconds`` after
    ``warm_up`` seconds that are not counted. Before that the first ``prime`` questions are asked once, for caches to
    know. No answer within ``timeout`` seconds is a failure."""

    url: str
    questions: Questions
    seconds: float
    concurrency: int = 1
    rate: float | None = None
    warm_up: float = 1.0
    prime: int = 0
    timeout: float = 30.0


@dataclass
class Outcome:
    """What came of a plan within its counted time: latencies in seconds of good answers, well-formed refusals counted,
    and everything else by what it was. ``sent`` counts requests begun; ``second`` good answers in each second."""

    seconds: float = 0.0
    sent: int = 0
    latencies: list[float] = field(default_factory=list)
    refused: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    second: Counter[int] = field(default_factory=Counter)
    generator_cores: float = 0.0

    @property
    def throughput(self) -> float:
        """Good answers a second."""
        return len(self.latencies) / self.seconds

    def figures(self) -> dict[str, Any]:
        """As a result file has them."""
        return {
            "seconds": round(self.seconds, 2),
            "answers": len(self.latencies),
            "throughput": round(self.throughput, 2),
            **percentiles_ms(self.latencies),
            "refused": self.refused,
            "failures": dict(self.failures),
            "generator_cores": round(self.generator_cores, 3),
        }


class LoadGenerator:
    """The other process. One plan at a time."""

    def __init__(self) -> None:
        self._process = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        self._runs = 0

    def run(self, plan: Plan) -> Outcome:
        self._runs += 1
        return self._process.submit(_run, plan, self._runs * _APART).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.shutdown()


def _run(plan: Plan, first: int) -> Outcome:
    return uvloop.run(_Caller(plan, first).run())


class _Caller:
    def __init__(self, plan: Plan, first: int) -> None:
        self._plan = plan
        self._numbers = itertools.count(first)
        self._outcome = Outcome()
        self._counted = False
        self._over = False  # a cancellation alone may be lost in a time-out that comes at the same moment
        self._began = 0.0

    async def run(self) -> Outcome:
        plan = self._plan
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=plan.timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as session:
            await self._prime(session)
            if plan.rate is not None:
                await self._for(self._arrivals(session, plan.rate))
            else:
                await self._for(*(self._again_and_again(session) for _ in range(plan.concurrency)))
        return self._outcome

    async def _prime(self, session: aiohttp.ClientSession) -> None:
        left = iter(range(self._plan.prime))

        async def some() -> None:
            for _ in left:
                await self._ask(session)

        await asyncio.gather(*(some() for _ in range(16)))

    async def _for(self, *loops: Coroutine[Any, Any, None]) -> None:
        """Let the loops run for as long as planned."""
        tasks = [asyncio.create_task(loop) for loop in loops]
        await asyncio.sleep(self._plan.warm_up)
        self._counted = True
        self._began, computed = time.perf_counter(), time.process_time()
        await asyncio.sleep(self._plan.seconds)
        self._counted, self._over = False, True
        self._outcome.seconds = time.perf_counter() - self._began
        self._outcome.generator_cores = (time.process_time() - computed) / self._outcome.seconds
        for task in tasks:
            if task.done():
                task.result()  # a loop ends only by an error of its own
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _again_and_again(self, session: aiohttp.ClientSession) -> None:
        while not self._over:
            await self._ask(session)

    async def _arrivals(self, session: aiohttp.ClientSession, rate: float) -> None:
        """Independent callers: the gaps between their requests are exponential."""
        rng = random.Random(0)  # noqa: S311
        asking: set[asyncio.Task[None]] = set()
        due = time.perf_counter()
        try:
            while not self._over:
                due += rng.expovariate(rate)
                if (pause := due - time.perf_counter()) > 0.001:
                    await asyncio.sleep(pause)
                elif len(asking) % 16 == 0:
                    await asyncio.sleep(0)
                task = asyncio.create_task(self._ask(session))
                asking.add(task)
                task.add_done_callback(asking.discard)
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    async def _ask(self, session: aiohttp.ClientSession) -> None:
        """One request. It counts where its answer comes within the counted time."""
        asked = self._plan.questions(next(self._numbers))
        self._outcome.sent += self._counted
        began = time.perf_counter()
        try:
            async with session.post(
                self._plan.url + asked.path, data=asked.body, headers={"Content-Type": asked.media_type}
            ) as response:
                body = await response.read()
        except TimeoutError:
            self._count(f"no answer within {self._plan.timeout:g} s")
        except aiohttp.ClientError as error:
            self._count(type(error).__name__)
        else:
            self._judge(response, body, time.perf_counter() - began)

    def _judge(self, response: aiohttp.ClientResponse, body: bytes, seconds: float) -> None:
        if not self._counted:
            return
        if response.status in (429, 503):
            fault = refusal_fault(response.headers.get("Content-Type", ""), response.headers.get("Retry-After"), body)
            if fault is None:
                self._outcome.refused += 1
            else:
                self._count(fault)
        elif response.status != 200:
            self._count(f"status {response.status}")
        elif (problem := response.headers.get(_DEGRADED)) is not None:
            self._count(f"degraded: {problem}")
        else:
            self._outcome.latencies.append(seconds)
            self._outcome.second[int(time.perf_counter() - self._began)] += 1

    def _count(self, fault: str) -> None:
        if self._counted:
            self._outcome.failures[fault] += 1


def refusal_fault(media_type: str, retry_after: str | None, body: bytes) -> str | None:
    """What a refusal lacks to be one by RFC 9457 that says when to ask again; None when nothing."""
    if not media_type.startswith(MEDIA_TYPE):
        return f"refused as {media_type or 'nothing'}"
    if retry_after is None or not retry_after.isdigit():
        return "refused without Retry-After"
    try:
        document = json.loads(body)
    except ValueError:
        return "refused with a body that is not JSON"
    if not isinstance(document, dict) or not document.keys() >= _FIELDS:
        return "refused without a problem's fields"
    return None
