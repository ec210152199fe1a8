"""The lock files are what ``pyproject.toml`` asks for, agree with each other, and hold versions and hashes only."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
ROLES = (
    "encoder",
    "encoder-torch",
    "index",
    "index-milvus",
    "gateway",
    "demo",
    "otel",
    "serve",
    "train",
    "dev",
    "docs",
)
# Where people run Diptych; each must get one version of everything.
PLACES = [
    {"python_version": python, "python_full_version": f"{python}.1", "sys_platform": system, "platform_system": name}
    for python in ("3.11", "3.12", "3.13")
    for system, name in (("linux", "Linux"), ("darwin", "Darwin"))
]


def locked(role: str) -> list[str]:
    """The lock's entries, each with its continuation lines joined."""
    text = (ROOT / "deploy" / "requirements" / f"{role}.txt").read_text()
    lines = text.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def pinned(role: str) -> list[Requirement]:
    return [Requirement(entry.split("--hash", 1)[0].strip()) for entry in locked(role)]


def versions(role: str, place: dict[str, str]) -> dict[str, Version]:
    """What is installed in one place. A package that is there twice fails here."""
    found: dict[str, Version] = {}
    for requirement in pinned(role):
        if requirement.marker is None or requirement.marker.evaluate({**place, "platform_machine": "x86_64"}):
            name = canonicalize_name(requirement.name)
            assert name not in found, f"{name} is locked twice in {role}.txt for {place}"
            (pin,) = requirement.specifier
            assert pin.operator == "==", requirement
            found[name] = Version(pin.version)
    return found


def direct(extra: str | None) -> list[Requirement]:
    """What an extra asks for, with the extras that it includes spelled out."""
    wanted = []
    for text in EXTRAS[extra] if extra else PROJECT["dependencies"]:
        requirement = Requirement(text)
        if requirement.name == PROJECT["name"]:
            wanted += [inner for name in requirement.extras for inner in direct(name)]
        else:
            wanted.append(requirement)
    return wanted


@pytest.mark.parametrize("role", ROLES)
def test_what_the_role_asks_for_is_locked_in_range(role: str) -> None:
    for place in PLACES:
        found = versions(role, place)
        for requirement in direct(None) + direct(role):
            marker: Marker | None = requirement.marker
            if marker is None or marker.evaluate(place):
                version = found.get(canonicalize_name(requirement.name))
                assert version is not None, f"{requirement} is not in {role}.txt: run deploy/lock.sh"
                assert version in requirement.specifier, f"{role}.txt has {version} of {requirement}"


@pytest.mark.parametrize("role", ROLES)
def test_every_entry_has_hashes_and_no_address(role: str) -> None:
    entries = locked(role)
    assert entries
    for entry in entries:
        requirement, *hashes = entry.split("--hash=")
        assert hashes, f"{requirement} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", digest) for digest in hashes), requirement
    text = (ROOT / "deploy" / "requirements" / f"{role}.txt").read_text()
    assert not re.search(r"://|@|--(extra-)?index-url|--find-links|-e ", text)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: f"{place['sys_platform']}-{place['python_version']}")
def test_roles_agree_with_dev(place: dict[str, str]) -> None:
    everything = versions("dev", place)
    for role in ROLES:
        found = versions(role, place)
        strays = {name: version for name, version in found.items() if everything.get(name, version) != version}
        assert not strays, f"{role}.txt and dev.txt differ: run deploy/lock.sh"
        # The site is built by what nothing else needs.
        assert role == "docs" or found.keys() <= everything.keys(), f"dev.txt lacks packages of {role}.txt"


@pytest.mark.parametrize("role", ["encoder", "index", "gateway", "demo", "otel", "serve"])
def test_serving_needs_no_torch(role: str) -> None:
    heavy = {name for place in PLACES for name in versions(role, place) if re.match(r"torch|nvidia|cuda|triton", name)}
    assert not heavy
