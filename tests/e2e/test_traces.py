"""Traces, as a collector gets them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from shared.client import Client
from tests.support.stack import Stack
from tests.support.store import Prepared
from tests.support.waiting import wait_for

proto = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason="needs the extra otel")


@contextmanager
def collector() -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """Its address, and (service, span) as they come in."""
    spans: list[tuple[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            for resource in proto.ExportTraceServiceRequest.FromString(body).resource_spans:
                (name,) = [a.value.string_value for a in resource.resource.attributes if a.key == "service.name"]
                spans.extend((name, span) for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", spans
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_one_search_is_one_trace_through_three_services(prepared: Prepared, tmp_path: Path) -> None:
    with collector() as (url, spans):
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "200"}
        with (
            Stack(tmp_path / "stack", prepared.store.root, env) as stack,
            Client(stack.url("gateway"), retries=0) as client,
        ):
            client.text_to_image("a red circle", 3, "cross")
            wanted = {"diptych-gateway", "diptych-encoder", "diptych-index"}
            wait_for(lambda: {name for name, _ in spans} == wanted, "spans of all services")
        kinds = {"server": 2, "client": 3}  # of OTLP
        served = [(name, span) for name, span in spans if span.kind == kinds["server"]]
        assert [span.name for name, span in served if name == "diptych-gateway"] == ["POST /text-to-image"]
        (root,) = [span for name, span in served if name == "diptych-gateway"]
        assert root.parent_span_id == b""
        traced = [(name, span) for name, span in served if span.trace_id == root.trace_id]
        assert sorted((name, span.name) for name, span in traced) == [
            ("diptych-encoder", "POST /embed/text"),
            ("diptych-encoder", "POST /rerank"),
            ("diptych-gateway", "POST /text-to-image"),
            ("diptych-index", "POST /search"),
        ]
        # What the gateway asks of a neighbour is the parent of what that does.
        asked = {
            span.span_id for _, span in spans if span.kind == kinds["client"] and span.parent_span_id == root.span_id
        }
        assert {span.parent_span_id for name, span in traced if name != "diptych-gateway"} <= asked
