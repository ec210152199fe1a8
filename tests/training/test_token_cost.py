"""``diptych measure tokens``: what reranking loses by the tokens that an index keeps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from diptych.cli import app
from shared.engines import open_engine
from shared.tokens import TokenFeatures

TEXTS = ["a red ball", "the dog runs on the beach with a child and a man in the snow", "snow", "a man plays"]


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return result.stdout


def test_exact_tokens_are_compared_with_stored_ones(tiny_model: Path, drawn_photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokens.json"
    options = ("--artifact", tiny_model, "--engine", "onnx", "--depth", 3, "--json", out)
    said = run("measure", "tokens", "--data", drawn_photos, *options)
    found = json.loads(out.read_text())
    assert (found["rerank_depth"], found["images"]) == (3, 6)
    assert (found["exact"]["bytes_a_photo"], found["stored"]["bytes_a_photo"]) == (9 * 16 * 4, 9 * 16 + 9 * 2)
    assert "exact tokens, 576 bytes a photo: R@1" in said
    run("evaluate", "--data", drawn_photos, "--model", "cross", *options)
    evaluated = json.loads(out.read_text())
    assert {way: found["stored"][way] for way in ("t2i", "i2t")} == {way: evaluated[way] for way in ("t2i", "i2t")}


def test_exact_tokens_lose_nothing(tiny_model: Path) -> None:
    exact = open_engine(tiny_model, engine="onnx", device="cpu", threads=1, compact=TokenFeatures.exact)
    stored = open_engine(tiny_model, engine="onnx", device="cpu", threads=1)
    for one, other in zip(exact.embed_texts(TEXTS).tokens, stored.embed_texts(TEXTS).tokens, strict=True):
        assert one.dequantise().dtype == np.float32
        off = np.abs(one.dequantise() - other.dequantise()).max(axis=1)
        assert (off > 0).all()
        assert (off <= 0.51 * other.scales).all()
