"""All metrics that the services have, from their own definitions: ``python -m diptych.metrics`` writes them as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib import import_module

from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

_SERVICES = ("encoder", "index", "gateway", "demo")


@dataclass(frozen=True)
class Metric:
    """``name`` as it is asked for; a histogram also ends in ``_bucket``, ``_sum`` and ``_count``."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


def catalogue() -> list[Metric]:
    """By name. Imports every service, so that it needs what all of them need."""
    for service in _SERVICES:
        import_module(f"services.{service}.app")
    found = []
    for collector in {*REGISTRY._names_to_collectors.values()}:
        if isinstance(collector, MetricWrapperBase):
            (family,) = collector.describe()
            name = f"{family.name}_total" if family.type == "counter" else family.name
            if name.startswith("diptych_"):
                found.append(Metric(name, family.type, tuple(collector._labelnames), family.documentation))
    return sorted(found, key=lambda metric: metric.name)


if __name__ == "__main__":
    print(json.dumps([asdict(metric) for metric in catalogue()], indent=1))
