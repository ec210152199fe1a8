"""Traces by OpenTelemetry: one for each request, across services. Nothing is imported unless an endpoint is set."""

from __future__ import annotations

import os

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
# What the gateway asks its neighbours all the time, whether or not somebody searches.
_POLLED = "/status$,/pending"


def trace_requests(service: str) -> None:
    """Send spans by OTLP over HTTP to the endpoint that the environment names; do nothing when it names none.

    FastAPI makes a span for each request that it answers, and hands on what came with it; here are those for what is
    asked of neighbours. Everything else (sampling, headers, attributes) is said by OpenTelemetry's own ``OTEL_*``
    variables. Raises ModuleNotFoundError when there is an endpoint and the extra ``otel`` is not installed.
    """
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        return
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor
        from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{' or '.join(_ENDPOINTS)} is set, and {error.name} is not installed: "
            "pip install -r deploy/requirements/otel.txt, or unset it"
        ) from error

    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: f"diptych-{service}"}
    provider = TracerProvider(resource=Resource.create(named))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    os.environ.setdefault("OTEL_PYTHON_AIOHTTP_CLIENT_EXCLUDED_URLS", _POLLED)
    AioHttpClientInstrumentor().instrument()
    HTTPXClientInstrumentor().instrument()
