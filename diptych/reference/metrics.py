"""The page about metrics, from the counters, gauges and histograms that the services make when they are imported."""

from __future__ import annotations

import importlib
import sys

from prometheus_client import Counter
from prometheus_client.metrics import MetricWrapperBase

from diptych.reference.markdown import code, document, table

SERVICES = ("gateway", "encoder", "index", "demo")
_TOP = """
Every service answers `GET /metrics` in Prometheus' text format, beside what the client library tells of the process
(`process_*`, `python_*`). A histogram has the series `NAME_bucket`, `NAME_sum` and `NAME_count`. Labels hold routes,
not addresses, so that callers cannot make new series. The configuration in `deploy/prometheus` scrapes all services and
has the alerts.
"""


def page() -> str:
    blocks = []
    for place in ("shared", *SERVICES):
        rows = [
            [code(name(metric)), str(metric._type), ", ".join(map(code, metric._labelnames)), metric._documentation]
            for metric in sorted(found(place), key=name)
        ]
        title = "Every service" if place == "shared" else place.capitalize()
        if rows:
            blocks += [f"## {title}", table(["metric", "type", "labels", "meaning"], rows)]
    return document("Metrics", _TOP, *blocks)


def found(place: str) -> list[MetricWrapperBase]:
    """The metrics of one service, or of ``shared``, each once."""
    for service in SERVICES:
        importlib.import_module(f"services.{service}.app")
    if place == "shared":
        return list(_held("shared"))
    # A service's modules hold metrics of shared too; those are told of there.
    common = set(_held("shared"))
    return [metric for metric in _held(f"services.{place}") if metric not in common]


def _held(root: str) -> dict[MetricWrapperBase, None]:
    """What the imported modules under ``root`` hold."""
    modules = [module for path, module in sys.modules.items() if f"{path}.".startswith(f"{root}.")]
    values = (value for module in modules for value in vars(module).values())
    return dict.fromkeys(value for value in values if isinstance(value, MetricWrapperBase))


def name(metric: MetricWrapperBase) -> str:
    """As it is scraped. The library has no public door to a metric's labels and full name."""
    return str(metric._name) + ("_total" if isinstance(metric, Counter) else "")
