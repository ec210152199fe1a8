"""The Helm chart: Helm's own lint, Kubernetes's own schemas, and what the rendered objects may do."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.test_compose import SETTINGS, variables

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "diptych"
MONITOR = "serviceMonitor.enabled=true"
VARIANTS = {
    "as it is": (),
    "everything else": (
        "encoder.gpu=true",
        "encoder.gpuTag=gpu",
        "redis.enabled=false",
        "redis.url=redis://cache:6379/0",
        "gateway.ingress.enabled=true",
        "gateway.ingress.className=nginx",
        "gateway.ingress.tlsSecret=tls",
        "existingSecret=mine",
        "apiKeys=true",
        "photos.existingClaim=photos",
        "store.existingClaim=store",
        "image.registry=registry.example.org/",
        "image.pullSecrets[0].name=pull",
        "otlpEndpoint=http://collector:4318",
    ),
    "least": ("demo.enabled=false", "networkPolicy.enabled=false"),
}


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("helm") is None:
        pytest.skip("helm is not installed")
    return subprocess.run(["helm", *arguments], capture_output=True, text=True, check=False)


def _set(values: tuple[str, ...]) -> list[str]:
    return [argument for value in values for argument in ("--set", value)]


@cache
def rendered(variant: str, *more: str) -> list[dict[str, Any]]:
    result = helm("template", "shop", str(CHART), *_set((*VARIANTS[variant], *more)))
    assert result.returncode == 0, result.stderr
    return [found for found in yaml.safe_load_all(result.stdout) if found]


def pick(objects: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {
        found["metadata"]["name"].removeprefix("shop-diptych-"): found for found in objects if found["kind"] == kind
    }


def workloads(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return pick(objects, "Deployment") | pick(objects, "StatefulSet") | pick(objects, "Job")


@pytest.mark.parametrize("variant", VARIANTS)
def test_helm_finds_nothing_to_say(variant: str) -> None:
    result = helm("lint", "--strict", str(CHART), *_set(VARIANTS[variant]))
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("version", ["1.32", "1.37"])
def test_kubernetes_knows_every_field(variant: str, version: str) -> None:
    validation = pytest.importorskip("kubernetes_validate")
    for found in rendered(variant):
        validation.validate(found, version, strict=True)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("gateway.replica=2", "replica"),
        ("gateway.replicas=0", "replicas"),
        ("encoder.autoscaling.maxReplicas=many", "maxReplicas"),
        ("redis.enabled=false", "redis.url"),
        ("apiKeys=true", "existingSecret"),
    ],
)
def test_wrong_values_are_refused(value: str, says: str) -> None:
    result = helm("template", "shop", str(CHART), "--set", value)
    assert result.returncode != 0
    assert says in result.stderr


@pytest.mark.parametrize("variant", VARIANTS)
def test_pods_may_do_no_more_than_they_need(variant: str) -> None:
    for name, workload in workloads(rendered(variant)).items():
        pod = workload["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"] + pod.get("initContainers", []):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
        for container in pod["containers"]:
            assert {"requests", "limits"} <= set(container["resources"])
            volumes = {volume["name"] for volume in pod["volumes"]}
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("service", SETTINGS)
def test_a_service_is_probed_where_it_listens_and_told_what_it_knows(variant: str, service: str) -> None:
    found = workloads(rendered(variant))
    if service not in found:
        pytest.skip(f"no {service} here")
    (container,) = found[service]["spec"]["template"]["spec"]["containers"]
    port = SETTINGS[service].model_fields["port"].default
    assert container["ports"] == [{"name": "http", "containerPort": port}]
    paths = {kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/health/live", "liveness": "/health/live", "readiness": "/health/ready"}
    (address,) = pick(rendered(variant), "Service")[service]["spec"]["ports"]
    assert (address["port"], address["targetPort"]) == (port, "http")
    told = {entry["name"] for entry in container["env"]} - {"DIPTYCH_SECRETS_DIR", "OTEL_EXPORTER_OTLP_ENDPOINT"}
    assert told <= set(variables(SETTINGS[service]))
    secrets = next(v for v in found[service]["spec"]["template"]["spec"]["volumes"] if v["name"] == "secrets")
    keys = {item["key"] for item in secrets.get("secret", {}).get("items", [])} - {"keys.json"}
    assert keys <= set(variables(SETTINGS[service]))


def test_selectors_find_the_pods_they_are_for() -> None:
    objects = rendered("as it is")
    pods = {name: work["spec"]["template"]["metadata"]["labels"] for name, work in workloads(objects).items()}
    for kind, where in (("Service", "selector"), ("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        for name, found in pick(objects, kind).items():
            wanted = found["spec"][where]
            labels = wanted.get("matchLabels", wanted)
            matched = {pod for pod, has in pods.items() if labels.items() <= has.items()}
            assert matched == {"publish-1" if name == "publish" else name.removesuffix("-pods")}, (kind, name)
    assert set(pick(objects, "PodDisruptionBudget")) == {"gateway", "encoder", "index"}


def test_only_the_gateway_reaches_encoder_index_and_redis() -> None:
    policies = pick(rendered("as it is"), "NetworkPolicy")
    assert set(policies) == {"gateway", "encoder", "index", "demo", "redis", "publish"}

    def peers(name: str, direction: str, key: str) -> set[str]:
        return {
            peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
            for rule in policies[name]["spec"][direction]
            for peer in rule.get(key, [])
            if "podSelector" in peer
        }

    for name in ("encoder", "index", "redis"):
        assert all(rule["from"] for rule in policies[name]["spec"]["ingress"])
        assert peers(name, "ingress", "from") == {"gateway"}
        assert peers(name, "egress", "to") == set()
    assert peers("gateway", "egress", "to") == {"encoder", "index", "redis"}
    assert peers("demo", "egress", "to") == {"gateway"}
    assert policies["publish"]["spec"]["ingress"] == policies["publish"]["spec"]["egress"] == []
    assert all(policy["spec"]["policyTypes"] == ["Ingress", "Egress"] for policy in policies.values())


def test_encoders_are_scaled_by_what_waits_for_them() -> None:
    objects = rendered("as it is")
    (scaler,) = pick(objects, "HorizontalPodAutoscaler").values()
    first, second = scaler["spec"]["metrics"]
    assert first["pods"]["metric"]["name"] == "diptych_encoder_queue_items"
    assert second["resource"]["name"] == "cpu"
    encoder = pick(objects, "Deployment")[scaler["spec"]["scaleTargetRef"]["name"].removeprefix("shop-diptych-")]
    assert "replicas" not in encoder["spec"]  # an upgrade must not undo what the autoscaler decided


def test_the_gateway_sees_every_encoder() -> None:
    objects = rendered("as it is")
    service = pick(objects, "Service")["encoder-pods"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == pick(objects, "Service")["encoder"]["spec"]["selector"]
    (container,) = pick(objects, "Deployment")["gateway"]["spec"]["template"]["spec"]["containers"]
    told = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert told["DIPTYCH_GATEWAY_ENCODER_URL"] == f"http://{service['metadata']['name']}:8001"


def test_the_index_has_one_writer_and_encoders_only_read() -> None:
    objects = rendered("as it is")
    assert pick(objects, "StatefulSet")["index"]["spec"]["replicas"] == 1

    def read_only(name: str) -> bool:
        (container,) = workloads(objects)[name]["spec"]["template"]["spec"]["containers"]
        (mount,) = (m for m in container["volumeMounts"] if m["mountPath"] == "/var/lib/diptych")
        return bool(mount.get("readOnly", False))

    assert (read_only("encoder"), read_only("index")) == (True, False)
    (claim,) = pick(objects, "PersistentVolumeClaim").values()
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_a_service_monitor_is_made_on_demand() -> None:
    (monitor,) = pick(rendered("as it is", MONITOR), "ServiceMonitor").values()
    assert monitor["spec"]["jobLabel"] == "app.kubernetes.io/component"
    assert not pick(rendered("as it is"), "ServiceMonitor")
