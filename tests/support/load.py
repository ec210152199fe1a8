"""Callers that never stop asking, and what they got."""

from __future__ import annotations

import itertools
import math
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType

from shared.client import Client, DiptychError
from shared.schemas import ImageResult, ModelType, TextToImageResponse
from tests.support.waiting import wait_for

# No answer within this many seconds counts as hanging.
_HANGING_SECONDS = 15.0


@dataclass
class Load:
    """Some threads that each ask one new question after the other, without retries, while the context is open."""

    url: str
    threads: int = 3
    answers: list[TextToImageResponse] = field(default_factory=list)
    failures: list[DiptychError] = field(default_factory=list)

    @property
    def failed_with(self) -> Counter[str]:
        return Counter(failure.title for failure in self.failures)

    def wait_for_answers(self, more: int = 10) -> None:
        wanted = len(self.answers) + more
        wait_for(lambda: len(self.answers) >= wanted, f"{more} more answers", lambda: str(self.failed_with))

    def wait_for_failures(self, more: int = 3) -> None:
        wanted = len(self.failures) + more
        wait_for(lambda: len(self.failures) >= wanted, f"{more} more failures")

    def _ask(self, thread: int) -> None:
        with Client(self.url, timeout=_HANGING_SECONDS, retries=0) as client:
            for number in itertools.count():
                if self._stop.is_set():
                    return
                try:
                    model_type: ModelType = "cross" if number % 2 else "dual"
                    self.answers.append(client.text_to_image(f"question {thread} {number}", k=3, model_type=model_type))
                except DiptychError as error:
                    self.failures.append(error)
                self._stop.wait(0.01)

    def __enter__(self) -> Load:
        self._stop = threading.Event()
        self._running = [threading.Thread(target=self._ask, args=(n,)) for n in range(self.threads)]
        for thread in self._running:
            thread.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._running:
            thread.join()


def same(found: Sequence[ImageResult], expected: Sequence[ImageResult]) -> bool:
    """The same photos in the same order; an embedding made in another batch differs in its last digits."""
    return len(found) == len(expected) and all(
        one.image_id == other.image_id and math.isclose(one.score, other.score, abs_tol=1e-4)
        for one, other in zip(found, expected, strict=True)
    )
