"""Writes dashboards/diptych.json: ``python deploy/grafana/dashboard.py``. Change a panel here, not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PATH = Path(__file__).parent / "dashboards" / "diptych.json"
SOURCE = {"type": "prometheus", "uid": "prometheus"}
WIDTH, HEIGHT = 8, 7  # of a panel; a row is 24 wide
# What searches take, without what only looks after the service.
ROUTES = 'service="gateway", route!~"/health/.*|/metrics"'
GPU = "GPU"  # empty without an NVIDIA GPU and its exporter (docker compose --profile gpu)

# Row -> panels: title, unit, and queries by legend.
ROWS: dict[str, list[tuple[str, str, dict[str, str]]]] = {
    "Now": [
        ("Services up", "short", {"{{job}}": "sum by (job) (up)"}),
        ("Alerts firing", "short", {"alerts": 'count(ALERTS{alertstate="firing"}) or vector(0)'}),
        ("Neighbours of the gateway", "short", {"{{neighbour}}": "min by (neighbour) (diptych_gateway_neighbour_up)"}),
    ],
    "Traffic and errors": [
        (
            "Requests",
            "reqps",
            {"{{route}}": f"sum by (route) (rate(diptych_http_requests_total{{{ROUTES}}}[$__rate_interval]))"},
        ),
        ("In flight", "short", {"{{service}}": "sum by (service) (diptych_http_requests_in_flight)"}),
        (
            "Share of requests that fail",
            "percentunit",
            {
                "{{service}}": 'sum by (service) (rate(diptych_http_requests_total{status=~"5.."}[$__rate_interval]) '
                "or 0 * rate(diptych_http_requests_total[$__rate_interval])) / "
                "sum by (service) (rate(diptych_http_requests_total[$__rate_interval]))"
            },
        ),
        (
            "Refused",
            "reqps",
            {
                "gateway": "sum(rate(diptych_gateway_refused_total[$__rate_interval]))",
                "encoder, {{lane}}": "sum by (lane) (rate(diptych_encoder_refused_total[$__rate_interval]))",
            },
        ),
        (
            "Answers without the reranker asked for",
            "reqps",
            {"{{reason}}": "sum by (reason) (rate(diptych_gateway_degraded_total[$__rate_interval])) or vector(0)"},
        ),
        (
            "Statuses",
            "reqps",
            {"{{status}}": f"sum by (status) (rate(diptych_http_requests_total{{{ROUTES}}}[$__rate_interval]))"},
        ),
    ],
    "Latency": [
        (
            "Searches, p50 / p95 / p99",
            "s",
            {
                f"p{q} {{{{route}}}}": f"histogram_quantile(0.{q}, sum by (route, le) (rate("
                'diptych_http_request_seconds_bucket{service="gateway", route=~"/text-to-image|/image-to-text"}'
                "[$__rate_interval])))"
                for q in (50, 95, 99)
            },
        ),
        (
            "Stages, p95",
            "s",
            {
                "{{stage}}": "histogram_quantile(0.95, sum by (stage, le) "
                "(rate(diptych_gateway_stage_seconds_bucket[$__rate_interval])))"
            },
        ),
        (
            "Stages, mean",
            "s",
            {
                "{{stage}}": "sum by (stage) (rate(diptych_gateway_stage_seconds_sum[$__rate_interval])) / "
                "sum by (stage) (rate(diptych_gateway_stage_seconds_count[$__rate_interval]))"
            },
        ),
    ],
    "Encoder": [
        ("Waiting", "short", {"{{lane}}": "sum by (lane) (diptych_encoder_queue_items)"}),
        (
            "Items in a model call, mean",
            "short",
            {
                "{{lane}}": "sum by (lane) (rate(diptych_encoder_batch_size_sum[$__rate_interval])) / "
                "sum by (lane) (rate(diptych_encoder_batch_size_count[$__rate_interval]))"
            },
        ),
        (
            "Time of a model call, p95",
            "s",
            {
                "{{lane}}": "histogram_quantile(0.95, sum by (lane, le) "
                "(rate(diptych_encoder_model_seconds_bucket[$__rate_interval])))"
            },
        ),
    ],
    "Cache": [
        (
            "Share of look-ups that hit",
            "percentunit",
            {
                "{{cache}}": 'sum by (cache) (rate(diptych_gateway_cache_total{outcome="hit"}[$__rate_interval]) or '
                "0 * rate(diptych_gateway_cache_total[$__rate_interval])) / "
                "sum by (cache) (rate(diptych_gateway_cache_total[$__rate_interval]))"
            },
        ),
        (
            "Look-ups",
            "reqps",
            {"{{cache}} {{outcome}}": "sum by (cache, outcome) (rate(diptych_gateway_cache_total[$__rate_interval]))"},
        ),
    ],
    "Index": [
        ("Items", "short", {"{{collection}}": "max by (collection) (diptych_index_items)"}),
        (
            "Time of a search, p95",
            "s",
            {
                "{{collection}}": "histogram_quantile(0.95, sum by (collection, le) "
                "(rate(diptych_index_search_seconds_bucket[$__rate_interval])))"
            },
        ),
        (
            "Changes",
            "short",
            {
                "waiting to be written": "sum(diptych_index_changes_waiting)",
                "photos waiting for the model": "sum(diptych_index_pending_images)",
                "written a second": "sum(rate(diptych_index_changes_total[$__rate_interval])) or vector(0)",
            },
        ),
        (
            "Room on the disk",
            "bytes",
            {"free": "min(diptych_index_store_free_bytes)", "size": "min(diptych_index_store_size_bytes)"},
        ),
    ],
    "Versions": [
        ("What answers", "short", {"{{model}} with {{index}}": "max by (model, index) (diptych_gateway_pair_info)"}),
        ("In memory (1: served)", "short", {"{{job}} {{version}}": "max by (job, version) (diptych_version_info)"}),
        ("The store's version is not served", "short", {"{{job}}": "max by (job) (diptych_version_problem)"}),
    ],
    "Processes": [
        ("CPU, cores", "short", {"{{job}}": "sum by (job) (rate(process_cpu_seconds_total[$__rate_interval]))"}),
        ("Memory", "bytes", {"{{job}}": "sum by (job) (process_resident_memory_bytes)"}),
        ("Open files", "short", {"{{job}}": "sum by (job) (process_open_fds)"}),
    ],
    GPU: [
        ("GPU in use", "percent", {"GPU {{gpu}}": "DCGM_FI_DEV_GPU_UTIL"}),
        ("GPU memory, MiB", "short", {"GPU {{gpu}}": "DCGM_FI_DEV_FB_USED"}),
        ("GPU power", "watt", {"GPU {{gpu}}": "DCGM_FI_DEV_POWER_USAGE"}),
    ],
}


def dashboard() -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    y = 0
    for row, content in ROWS.items():
        place = {"h": 1, "w": 24, "x": 0, "y": y}
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": row, "collapsed": False, "gridPos": place, "panels": []}
        )
        for n, (title, unit, queries) in enumerate(content):
            place = {"h": HEIGHT, "w": WIDTH, "x": n % 3 * WIDTH, "y": y + 1 + n // 3 * HEIGHT}
            panels.append(
                _panel(len(panels) + 1, title, unit, queries, place, "stat" if row == "Now" else "timeseries")
            )
        y += 1 + -(-len(content) // 3) * HEIGHT
    return {
        "uid": "diptych",
        "title": "Diptych",
        "tags": ["diptych"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "panels": panels,
    }


def _panel(
    number: int, title: str, unit: str, queries: dict[str, str], place: dict[str, int], kind: str
) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + n), "datasource": SOURCE, "expr": query, "legendFormat": legend}
        for n, (legend, query) in enumerate(queries.items())
    ]
    defaults = {"unit": unit, "min": 0}
    return {
        "id": number,
        "type": kind,
        "title": title,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": targets,
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n")
