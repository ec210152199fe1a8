"""The catalogue of problems and the page that is written from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shared.problems import CATALOGUE, TYPE_PREFIX, Problem, page

ROOT = Path(__file__).parents[2]


def test_the_committed_page_is_what_the_catalogue_says() -> None:
    assert (ROOT / "docs" / "errors.md").read_text() == page(), "run make errors"


@pytest.mark.parametrize("slug", CATALOGUE)
def test_every_kind_is_explained_and_its_type_is_found_on_the_page(slug: str) -> None:
    kind = CATALOGUE[slug]
    assert 400 <= kind.status < 600
    assert all(sentence.endswith(".") for sentence in (kind.when, kind.remedy))
    document = Problem(slug, "what was wrong").document()
    assert (document["type"], document["status"], document["title"]) == (TYPE_PREFIX + slug, kind.status, kind.title)
    assert f"\n## {slug}\n" in page()


def test_only_kinds_of_the_catalogue_are_raised() -> None:
    raised = {
        slug
        for folder in ("shared", "services")
        for path in (ROOT / folder).rglob("*.py")
        for slug in re.findall(r'Problem\(\s*"([a-z-]+)"', path.read_text())
    }
    assert raised
    assert raised <= set(CATALOGUE)
