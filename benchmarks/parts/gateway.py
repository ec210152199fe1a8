"""The whole path: both directions, both models, cached and not, beside one process and the seed's design."""

from __future__ import annotations

import os
from itertools import product

from benchmarks.bench import CONCURRENCIES, READY_SECONDS, Bench, Figures, python, server
from benchmarks.partners import one_process
from benchmarks.questions import ImageToText, Questions, TextToImage
from diptych.ports import free_port
from diptych.programs import get_json
from shared.schemas import ModelType

MODELS: tuple[ModelType, ...] = ("dual", "cross")
WHATS = ("text to image", "image to text")
_CACHED = 100  # questions, of which all are answered once before
_SEED_CONCURRENCIES = (1, 16)


def measure(bench: Bench) -> Figures:
    points = []
    with bench.stack("redis", "encoder", "index", "gateway") as stack:
        idle = stack.memory()
        for what, model_type, cached, concurrency in product(WHATS, MODELS, (False, True), CONCURRENCIES):
            about: Figures = {"system": "diptych", "what": what, "model_type": model_type, "cached": cached}
            questions = asked(bench, what, model_type, cached=cached)
            points.append(
                bench.point(about, stack.url("gateway"), questions, concurrency, prime=_CACHED if cached else 0)
            )
        busy = stack.memory()
    points += map(
        bench.note, bench.alone(one_process.measure, bench.state.store, bench.photos, CONCURRENCIES, bench.seconds)
    )
    return {
        "images": bench.images,
        "points": points + _seed(bench),
        "memory": {name: {"idle_mb": idle[name]["rss_mb"], **busy[name]} for name in busy},
    }


def asked(bench: Bench, what: str, model_type: ModelType, *, cached: bool) -> Questions:
    if what == "text to image":
        return TextToImage(model_type, different=_CACHED if cached else None)
    return ImageToText(bench.photos, model_type, fresh=not cached)


def _seed(bench: Bench) -> list[Figures]:
    folder = bench.work / "seed"
    folder.mkdir()
    for number, photo in enumerate(bench.photos):
        (folder / f"{number:02}.jpg").write_bytes(photo)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = python("benchmarks.partners.seed", bench.state.store, folder, port)
    points = []
    with server(command, f"{url}/health", bench.work / "seed.log", os.environ):
        for what, model_type, concurrency in product(WHATS, MODELS, _SEED_CONCURRENCIES):
            slow = what == "text to image" and model_type == "cross"
            if slow and concurrency > 1:
                continue  # it does one at a time; a second caller only waits
            about: Figures = {"system": "seed's design", "what": what, "model_type": model_type, "cached": False}
            get_json(f"{url}/health", timeout_seconds=READY_SECONDS)  # once what the last caller left behind is done
            seconds = max(bench.seconds, 10.0) if slow else bench.seconds
            questions = asked(bench, what, model_type, cached=False)
            points.append(bench.point(about, url, questions, concurrency, seconds=seconds))
    return points
