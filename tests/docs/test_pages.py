"""What the pages claim holds: links lead somewhere, commands, targets and settings exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperCommand, TyperGroup

from diptych.cli import app
from tests.support.stack import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
each = pytest.mark.parametrize("page", PAGES, ids=NAMES)


def outside_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)


def anchors(page: Path) -> set[str]:
    """As GitHub and the site make them of headings."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    plain = (re.sub(r"[^\w\- ]", "", line.lower()) for line in re.findall(r"^#+ (.*)$", text, re.M))
    return {line.replace(" ", "-") for line in plain}


def commands(page: Path) -> Iterator[str]:
    """The lines of a page's shell blocks, continued ones joined."""
    for block in re.findall(r"^ *```sh\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.S | re.M):
        yield from (line.strip() for line in block.replace("\\\n", " ").splitlines() if line.strip())


@each
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", outside_code(page.read_text(encoding="utf-8"))):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(found), f"{page.name} links to {target}; {found.name} has {sorted(anchors(found))}"


def _understood(program: object, words: list[str]) -> None:
    """Parse as the program would, without doing it."""
    command, name = program, words.pop(0)
    while isinstance(command, TyperGroup):
        assert words and words[0] in command.commands, f"{name} has no subcommand {words[:1]}"
        name = words.pop(0)
        command = command.commands[name]
    assert isinstance(command, TyperCommand)
    command.make_context(name, words)


def test_every_diptych_command_on_the_pages_is_one_that_the_program_understands() -> None:
    program, seen = typer.main.get_command(app), 0
    for page in PAGES:
        for line in commands(page):
            words = shlex.split(line, comments=True)
            # After variables, torchrun's options or docker compose's; `python -m diptych` is the same.
            starts = [n for n, word in enumerate(words) if word.removeprefix(".venv/bin/") == "diptych"]
            for start in starts[:1]:
                try:
                    _understood(program, words[start:])
                except Exception as error:
                    pytest.fail(f"{page.relative_to(ROOT)}: {line}: {error!r} {getattr(error, 'message', '')}")
                seen += 1
    assert seen > 50


def test_every_make_target_on_the_pages_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M))
    for page in PAGES:
        asked = [line for line in commands(page) if line.startswith("make ")]
        told = re.findall(r"`(make [a-z][^`]*)`", page.read_text(encoding="utf-8"))
        for line in [*asked, *told]:
            assert line.split()[1] in targets, f"{page.name}: {line}"


def test_every_setting_that_is_named_exists() -> None:
    known = set(re.findall(r"DIPTYCH_[A-Z_]+[A-Z]", (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8")))
    known |= {"DIPTYCH_API_KEY", "DIPTYCH_GATEWAY"}
    deployed = [ROOT / "docker-compose.yml", *(ROOT / "deploy/docker").iterdir()]
    for path in [*PAGES, *deployed]:
        named = set(re.findall(r"DIPTYCH_[A-Z_]+[A-Z]", path.read_text(encoding="utf-8")))
        assert named <= known, f"{path.name} names {sorted(named - known)}"


def test_what_docker_compose_takes_is_documented() -> None:
    taken = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    taken |= set(re.findall(r"^(\w+)=", (ROOT / ".env").read_text(), re.M))
    page = (ROOT / "docs/how-to/deploy.md").read_text(encoding="utf-8")
    assert [name for name in sorted(taken) if f"`{name}`" not in page] == []


def test_every_page_is_in_the_site() -> None:
    import tomllib

    def leaves(node: object) -> Iterator[str]:
        if isinstance(node, str):
            yield node
        elif isinstance(node, dict):
            for below in node.values():
                yield from leaves(below)
        elif isinstance(node, list):
            for below in node:
                yield from leaves(below)

    listed = list(leaves(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]))
    pages = {str(page.relative_to(ROOT / "docs")) for page in PAGES if page.is_relative_to(ROOT / "docs")}
    assert len(listed) == len(set(listed))
    assert set(listed) == pages
