"""The two READMEs have the same shape, so that a change of one that misses the other is seen."""

from __future__ import annotations

import re

import pytest

from tests.support.stack import ROOT

ENGLISH, CHINESE = (ROOT / name for name in ("README.md", "README.zh-CN.md"))

SHAPES = {
    "code blocks": r"```.*?```",
    "headings": r"^#+ ",
    "paragraphs that begin in bold": r"^\*\*",
    "list items": r"^- ",
    "table rows": r"^\|",
    "links": r"\]\(([^)]*)\)",
    "commands and names in the text": r"`[^`\n]+`",
    "recalls": r"\d+\.\d / \d+\.\d / \d+\.\d",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_both_have_the_same(shape: str) -> None:
    english, chinese = ([*found(path.read_text(encoding="utf-8"), shape)] for path in (ENGLISH, CHINESE))
    assert english
    assert chinese == english


def found(text: str, shape: str) -> list[str]:
    """Everything of one kind: in order, but for what stands inside sentences, whose order differs."""
    if shape != "code blocks":
        text = re.sub(SHAPES["code blocks"], "", text, flags=re.S)
    parts = re.findall(SHAPES[shape], text, re.S | re.M)
    if shape == "links":
        return sorted({part for part in parts if not part.startswith("README")})
    return sorted(set(parts)) if shape.startswith("commands") else parts
