"""Prometheus: its configuration and alerts, checked against the services' own metrics and by its own tool."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY

from tests.deploy.test_compose import SETTINGS

PROMETHEUS = Path(__file__).parents[2] / "deploy" / "prometheus"
CONFIG: dict[str, Any] = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
ALERTS = Path(__file__).with_name("alerts.yml")
RULES: list[dict[str, Any]] = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"][0]["rules"]


def promtool(*arguments: str) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: apt install prometheus)")
    result = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "SUCCESS" in result.stdout + result.stderr


def test_every_service_is_scraped_at_its_port() -> None:
    scraped = {}
    for job in CONFIG["scrape_configs"]:
        for found in job.get("dns_sd_configs", []):
            scraped[job["job_name"]] = f"{found['names'][0]}:{found['port']}"
        for found in job.get("static_configs", []):
            scraped[job["job_name"]] = found["targets"][0]
    assert scraped.pop("gpu") == "gpu-exporter:9400"
    assert scraped == {name: f"{name}:{made.model_fields['port'].default}" for name, made in SETTINGS.items()}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alerts_ask_for_metrics_that_there_are(rule: dict[str, Any]) -> None:
    for service in SETTINGS:
        import_module(f"services.{service}.app")  # registers its metrics
    known = {metric.name for metric in REGISTRY.collect()}
    for name in re.findall(r"diptych_\w+", rule["expr"]):
        assert re.sub(r"_(total|bucket|sum|count)$", "", name) in known, name
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert set(rule["annotations"]) == {"summary", "action"}


def test_prometheus_accepts_the_configuration() -> None:
    promtool("check", "config", str(PROMETHEUS / "prometheus.yml"))


def test_alerts_fire_when_they_should_and_only_then() -> None:
    promtool("test", "rules", str(ALERTS))


def test_every_alert_is_tested_both_ways() -> None:
    quiet, loud = yaml.safe_load(ALERTS.read_text())["tests"]
    alerts = {rule["alert"] for rule in RULES}
    assert {case["alertname"] for case in quiet["alert_rule_test"] if not case["exp_alerts"]} == alerts
    fired = "".join(sample["labels"] for sample in loud["promql_expr_test"][0]["exp_samples"])
    assert set(re.findall(r'alertname="(\w+)"', fired)) == alerts
