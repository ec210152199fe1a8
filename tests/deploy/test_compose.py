"""docker-compose.yml and the Dockerfiles, checked against the code that they start."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import AliasChoices
from pydantic_settings import BaseSettings

from services.demo.settings import DemoSettings
from services.encoder.settings import EncoderSettings
from services.gateway.settings import GatewaySettings
from services.index.settings import IndexSettings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SETTINGS: dict[str, type[BaseSettings]] = {
    "encoder": EncoderSettings,
    "index": IndexSettings,
    "gateway": GatewaySettings,
    "demo": DemoSettings,
}
# Variables that are no field of the settings.
OTHERS = {"DIPTYCH_SECRETS_DIR", "OTEL_EXPORTER_OTLP_ENDPOINT"}
BUILT = [name for name, service in SERVICES.items() if "build" in service]


def dockerfile(service: str) -> str:
    path: str = SERVICES[service]["build"]["dockerfile"]
    return (ROOT / path).read_text()


def variables(settings: type[BaseSettings]) -> dict[str, str]:
    """The environment variables that a service reads, and the name of the field that each one sets."""
    found: dict[str, str] = {}
    for name, field in settings.model_fields.items():
        alias = field.validation_alias
        names = alias.choices if isinstance(alias, AliasChoices) else [f"{settings.model_config['env_prefix']}{name}"]
        found |= {str(variable).upper(): name for variable in names}
    return found


def configure(*arguments: str, **environment: str) -> dict[str, Any]:
    """What Docker Compose itself makes of the file."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            inherited = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME"}}
            run = [*command, "--project-directory", str(ROOT), *arguments, "config"]
            version = subprocess.run([*command, "version", "--short"], capture_output=True, text=True, check=False)
            if version.returncode or version.stdout.startswith("1."):
                continue
            result = subprocess.run(run, capture_output=True, text=True, check=False, env={**inherited, **environment})
            assert result.returncode == 0, result.stderr
            assert "level=warning" not in result.stderr, result.stderr
            model: dict[str, Any] = yaml.safe_load(result.stdout)
            return model
    pytest.skip("Docker Compose 2 is not installed")


@pytest.mark.parametrize("service", [name for name in SERVICES if name != "publish"])
def test_is_watched_and_restarted(service: str) -> None:
    assert SERVICES[service]["restart"] == "unless-stopped"
    if service in BUILT:
        port = SETTINGS[service.removesuffix("-gpu")].model_fields["port"].default
        assert f'CMD ["python", "probe.py", "{port}"]' in dockerfile(service)
        assert f"EXPOSE {port}\n" in dockerfile(service)
    else:
        assert SERVICES[service]["healthcheck"]["test"]


@pytest.mark.parametrize("service", SERVICES)
def test_may_do_no_more_than_it_needs(service: str) -> None:
    settings = SERVICES[service]
    assert settings["read_only"] is True
    assert settings["cap_drop"] == ["ALL"]
    assert settings["security_opt"] == ["no-new-privileges:true"]
    assert not settings.get("privileged")


def test_only_the_public_faces_have_ports() -> None:
    assert {name for name, service in SERVICES.items() if "ports" in service} == {
        "gateway",
        "demo",
        "prometheus",
        "grafana",
    }
    hosts = [port.split(":8000")[0] for port in SERVICES["gateway"]["ports"]]
    assert hosts == ["${BIND:-127.0.0.1}:${PORT:-8000}"]  # nobody is let in from outside who was not asked for


@pytest.mark.parametrize("service", [name for name in BUILT if SERVICES[name].get("environment")])
def test_variables_are_settings_of_the_service(service: str) -> None:
    settings = SETTINGS[service.removesuffix("-gpu")]
    environment = {k: v for k, v in SERVICES[service]["environment"].items() if k not in OTHERS}
    built = dict(re.findall(r"(DIPTYCH_\w+)=(\S+)", dockerfile(service)))
    known = variables(settings)
    assert set(environment) | set(built) <= set(known)
    values = {name: re.sub(r"\$\{\w+:(?:-(.*)|\+.*)\}", r"\1", value) for name, value in (built | environment).items()}
    made = settings.model_validate({known[name]: value for name, value in values.items() if value})
    assert made.model_dump()["host"] == "0.0.0.0"


@pytest.mark.parametrize("service", BUILT)
def test_image_runs_as_nobody_in_particular(service: str) -> None:
    text = dockerfile(service)
    stages = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert len(stages) > 1  # what installs stays behind
    final = text[text.rindex("\nFROM ") :]
    assert re.findall(r"^USER (.+)$", final, re.MULTILINE) == ["10001:10001"]
    assert "STOPSIGNAL SIGTERM" in final
    assert "HEALTHCHECK" in final
    assert re.search(r'^CMD \["', final, re.MULTILINE), "the exec form passes signals on"


@pytest.mark.parametrize("service", BUILT)
def test_image_holds_one_service_and_its_locked_packages(service: str) -> None:
    role = service.removesuffix("-gpu")
    text = dockerfile(service)
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for path in source.replace("${LOCK}", SERVICES[service]["build"].get("args", {}).get("LOCK", role)).split():
            assert path == "artifacts" or (ROOT / path).exists(), path
    assert set(re.findall(r"services/(\w+) ", text)) == ({role} if role in SETTINGS else set())
    assert text.count(" install --no-cache-dir ") == text.count(" --require-hashes ") > 0
    assert not re.search(r"https?://", text)


def test_neighbours_wait_for_each_other() -> None:
    gateway, demo = SERVICES["gateway"]["depends_on"], SERVICES["demo"]["depends_on"]
    assert {name: wait["condition"] for name, wait in (gateway | demo).items()} == dict.fromkeys(
        ("redis", "encoder", "encoder-gpu", "index", "gateway"), "service_healthy"
    )


def test_the_index_finds_photos_where_they_were_indexed() -> None:
    (photos,) = (mount for mount in SERVICES["index"]["volumes"] if ":/photos" in mount)
    assert photos in SERVICES["publish"]["volumes"]
    assert photos.endswith(":ro")


def test_secrets_are_files_that_only_those_get_who_need_them() -> None:
    secrets = {name: set(service["secrets"]) for name, service in SERVICES.items() if "secrets" in service}
    token, password, key = "DIPTYCH_INTERNAL_TOKEN", "DIPTYCH_REDIS_PASSWORD", "DIPTYCH_DEMO_API_KEY"
    assert secrets == {
        "redis": {password},
        "encoder": {token},
        "encoder-gpu": {token},
        "index": {token},
        "gateway": {token, password},
        "demo": {key},
    }
    for service in secrets.keys() & set(BUILT):
        assert secrets[service] <= set(variables(SETTINGS[service.removesuffix("-gpu")]))
        assert SERVICES[service]["environment"]["DIPTYCH_SECRETS_DIR"] == "/run/secrets"
    for name, secret in COMPOSE["secrets"].items():
        file = ROOT / secret["file"].replace("${SECRETS:-./deploy/secrets}", "deploy/secrets")
        assert file.read_bytes() == b"", f"{name} belongs into a folder of its own, not into this one"
    gateway = SERVICES["gateway"]
    assert gateway["environment"]["DIPTYCH_GATEWAY_API_KEYS"] == "${KEYS:+/keys/keys.json}"
    # A folder: a file that is mounted by itself stays the old one when the name goes to a new one.
    assert gateway["volumes"] == ["${KEYS:-keys}:/keys:ro"]


def test_one_encoder_is_there_unless_told_otherwise() -> None:
    assert "COMPOSE_PROFILES=cpu" in (ROOT / ".env").read_text().splitlines()
    assert SERVICES["encoder"]["profiles"] == ["cpu"]
    assert SERVICES["encoder-gpu"]["profiles"] == ["gpu"]


def test_compose_accepts_the_file_and_starts_one_encoder() -> None:
    default = configure()["services"]
    assert set(default) == {"redis", "publish", "encoder", "index", "gateway", "demo", "prometheus", "grafana"}
    gpu = configure("--profile", "gpu")["services"]
    assert set(gpu) == set(default) - {"encoder"} | {"encoder-gpu", "gpu-exporter"}
    assert gpu["encoder-gpu"]["networks"]["back"]["aliases"] == ["encoder"]
    (device,) = gpu["encoder-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def test_a_folder_takes_the_place_of_the_gallery(tmp_path: Path) -> None:
    for service in ("publish", "index"):
        mounts = {mount["target"]: mount for mount in configure(PHOTOS=str(tmp_path))["services"][service]["volumes"]}
        assert mounts["/photos"]["type"] == "bind"
        assert mounts["/photos"]["source"] == str(tmp_path)
