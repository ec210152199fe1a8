"""The dashboard: what it is made from, and that no panel is empty when a real Prometheus scrapes real services."""

from __future__ import annotations

import json
import math
import runpy
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from diptych.ports import free_port
from shared.client import Client
from tests.deploy.test_compose import SERVICES
from tests.deploy.test_prometheus import CONFIG, PROMETHEUS, RULES
from tests.support.load import Load
from tests.support.stack import SERVICES as STACK
from tests.support.stack import Stack
from tests.support.store import prepare
from tests.support.waiting import wait_for

GRAFANA = PROMETHEUS.parent / "grafana"
MADE: dict[str, Any] = runpy.run_path(str(GRAFANA / "dashboard.py"))
# Needs a GPU and NVIDIA's exporter of its metrics, which are not ours to test.
EXEMPT = {MADE["GPU"]}
QUERIES = [
    pytest.param(query, id=f"{title}-{legend}")
    for row, panels in MADE["ROWS"].items()
    if row not in EXEMPT
    for title, _, queries in panels
    for legend, query in queries.items()
]


def test_the_file_is_what_the_program_writes() -> None:
    assert json.loads((GRAFANA / "dashboards" / "diptych.json").read_text()) == MADE["dashboard"]()


def test_panels_have_their_own_ids_and_places() -> None:
    panels = MADE["dashboard"]()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + right, at["y"] + down) for right in range(at["w"]) for down in range(at["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken
        taken |= cells


def test_grafana_is_given_the_data_source_and_the_dashboard() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert {"type": source["type"], "uid": source["uid"]} == MADE["SOURCE"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "diptych.yml").read_text())["providers"]
    mounts = dict(mount.split(":")[:2] for mount in SERVICES["grafana"]["volumes"])
    assert mounts == {
        "./deploy/grafana/provisioning": "/etc/grafana/provisioning",
        "./deploy/grafana/dashboards": provider["options"]["path"],
    }


class Prometheus:
    """A real one with the shipped configuration and rules, scraping a stack every second."""

    def __init__(self, directory: Path, stack: Stack) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self._directory = directory
        config = {**CONFIG, "global": {"scrape_interval": "1s", "evaluation_interval": "1s"}}
        config["rule_files"] = [str(PROMETHEUS / "rules.yml")]
        config["scrape_configs"] = [
            {"job_name": job["job_name"], "static_configs": [{"targets": [stack.url(job["job_name"])[7:]]}]}
            for job in CONFIG["scrape_configs"]
            if job["job_name"] in STACK
        ]
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))

    def ask(self, path: str, **parameters: str) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def values(self, query: str) -> list[float]:
        """What a panel would draw now."""
        found = self.ask("query", query=query.replace("$__rate_interval", "30s"))["result"]
        return [value for value in (float(series["value"][1]) for series in found) if math.isfinite(value)]

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/-/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def __enter__(self) -> Prometheus:
        command = ["prometheus", f"--config.file={self._directory / 'prometheus.yml'}"]
        command += [f"--storage.tsdb.path={self._directory / 'data'}", f"--web.listen-address={self.url[7:]}"]
        with (self._directory / "log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for(self.is_ready, "Prometheus to be ready", (self._directory / "log").read_text)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)


@pytest.fixture(scope="module")
def prometheus(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It has seen some seconds of searches of both kinds, asked again too, and a photo put in."""
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed (Debian: apt install prometheus)")
    prepared = prepare(tmp_path_factory.mktemp("prepared"), tiny_model)
    with Stack(tmp_path_factory.mktemp("stack"), prepared.store.root) as stack:
        url = stack.url("gateway")
        with Prometheus(tmp_path_factory.mktemp("prometheus"), stack) as prometheus, Client(url) as client:
            wait_for(partial(_all_up, prometheus), "all services to be scraped")
            with Load(url) as load:
                photo = prepared.photos / "chelsea.png"
                before = prometheus.values("sum(diptych_http_requests_total)")[0]
                for _ in range(4):  # over several scrapes, for a rate needs two
                    client.image_to_text(photo, 3, "cross")
                    client.text_to_image("asked again", 3, "cross")
                    load.wait_for_answers(30)
                    before = _scraped_after(prometheus, before)
                assert not load.failures
                yield prometheus


def _all_up(prometheus: Prometheus) -> bool:
    return sum(prometheus.values("up")) == len(STACK)


def _scraped_after(prometheus: Prometheus, before: float) -> float:
    wait_for(lambda: prometheus.values("sum(diptych_http_requests_total)")[0] > before, "another scrape")
    return prometheus.values("sum(diptych_http_requests_total)")[0]


@pytest.mark.parametrize("query", QUERIES)
def test_no_panel_is_empty_under_load(prometheus: Prometheus, query: str) -> None:
    assert prometheus.values(query)


def test_the_rules_are_loaded_and_quiet(prometheus: Prometheus) -> None:
    (group,) = prometheus.ask("rules")["groups"]
    assert {rule["name"] for rule in group["rules"]} == {rule["alert"] for rule in RULES}
    assert {rule["health"] for rule in group["rules"]} <= {"ok", "unknown"}
    assert [rule["name"] for rule in group["rules"] if rule["state"] == "firing"] == []
