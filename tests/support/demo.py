"""The demo as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from diptych.ports import free_port
from tests.support.waiting import wait_for


@contextmanager
def demo(gateway_url: str, **settings: str) -> Iterator[str]:
    """The URL of a demo that asks this gateway; ``settings`` are ``DIPTYCH_DEMO_*`` without the prefix."""
    port = free_port()
    settings |= {"port": str(port), "gateway_url": gateway_url, "drain_seconds": "1"}
    environment = {f"DIPTYCH_DEMO_{name.upper()}": value for name, value in settings.items()}
    command = [sys.executable, "-c", "from services.demo.app import main; main()"]
    process = subprocess.Popen(command, env=os.environ | environment)
    url = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        assert process.poll() is None, "the demo ended"
        try:
            return httpx.get(f"{url}/health/ready", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_for(is_ready, "the demo to be ready")
        yield url
    finally:
        process.terminate()
        process.wait(30)
