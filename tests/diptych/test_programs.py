"""What ``diptych up`` starts, and what it makes of a gateway that asks for keys."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from diptych.programs import Addresses, gateway_problem, services
from diptych.state import StateDirectory
from diptych.supervisor import StartError


@pytest.fixture
def gateway() -> Iterator[str]:
    """It is ready, serves index a/1, and knows the key dk_good."""

    class Gateway(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = self.path == "/health/ready" or self.headers.get("Authorization") == "Bearer dk_good"
            document = {"problems": [], "index": "a/1"} if allowed else {"detail": "no API key came"}
            body = json.dumps(document).encode()
            self.send_response(200 if allowed else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_without_a_key_that_it_knows_it_does_not_go_on_waiting(
    gateway: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = StateDirectory(tmp_path)
    for key in ("", "dk_bad", "dk_ no key"):
        monkeypatch.setenv("DIPTYCH_API_KEY", key)
        with pytest.raises(StartError, match="DIPTYCH_API_KEY") as caught:
            gateway_problem(gateway, state)
        assert "dk_" not in str(caught.value)
    monkeypatch.setenv("DIPTYCH_API_KEY", "dk_good")
    assert gateway_problem(gateway, state) is None


def test_encoders_share_the_cores_and_the_gateway_knows_them_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DIPTYCH_ENCODER_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(8)))
    state = StateDirectory(tmp_path)
    one = Addresses("127.0.0.1", 1, 2, 3, 4, 5)
    (encoder,) = [it for it in services(state, one, redis_url="redis://a", examples=None) if "encoder" in it.name]
    assert "DIPTYCH_ENCODER_THREADS" not in encoder.environment
    three = Addresses("127.0.0.1", 1, 2, 3, 4, 5, more_encoders=(6, 7))
    programs = {it.name: it.environment for it in services(state, three, redis_url="redis://a", examples=None)}
    assert list(programs) == ["encoder", "encoder-2", "encoder-3", "index", "gateway", "demo"]
    encoders = [programs[name] for name in ("encoder", "encoder-2", "encoder-3")]
    assert [it["DIPTYCH_ENCODER_PORT"] for it in encoders] == ["3", "6", "7"]
    assert {it["DIPTYCH_ENCODER_THREADS"] for it in encoders} == {"2"}
    known = programs["gateway"]["DIPTYCH_GATEWAY_ENCODER_URL"]
    assert known == "http://127.0.0.1:3,http://127.0.0.1:6,http://127.0.0.1:7"
