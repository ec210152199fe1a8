"""One, two and four encoders behind one gateway, each of a known speed: what the gateway makes of them."""

from __future__ import annotations

import os
from contextlib import ExitStack

from benchmarks.bench import Bench, Figures, python, server
from benchmarks.questions import TextToImage
from diptych.ports import free_port

REPLICAS = (1, 2, 4)
DELAY_SECONDS = 0.02
_CALLERS = 64


def measure(bench: Bench) -> Figures:
    points = []
    with bench.stack("encoder", "index") as stack:
        for count in REPLICAS:
            with ExitStack() as running:
                ports = [free_port() for _ in range(count + 1)]
                encoders = [f"http://127.0.0.1:{port}" for port in ports[1:]]
                for port, url in zip(ports[1:], encoders, strict=True):
                    command = python("benchmarks.partners.slow", stack.url("encoder"), DELAY_SECONDS, port)
                    log = bench.work / f"slow-{port}.log"
                    running.enter_context(server(command, f"{url}/health/ready", log, os.environ))
                gateway = f"http://127.0.0.1:{ports[0]}"
                environment = {
                    **os.environ,
                    "DIPTYCH_GATEWAY_PORT": str(ports[0]),
                    "DIPTYCH_GATEWAY_ENCODER_URL": ",".join(encoders),
                    "DIPTYCH_GATEWAY_INDEX_URL": stack.url("index"),
                }
                command = python("diptych", "serve", "gateway")
                log = bench.work / f"gateway-{count}.log"
                running.enter_context(server(command, f"{gateway}/health/ready", log, environment))
                about: Figures = {"system": "diptych", "what": "text to image", "model_type": "dual", "encoders": count}
                points.append(bench.point(about, gateway, TextToImage("dual"), _CALLERS))
    return {"images": bench.images, "delay_ms": 1000 * DELAY_SECONDS, "points": points}
