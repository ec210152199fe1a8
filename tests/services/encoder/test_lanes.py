"""The lanes with a real model: who decodes, who computes, and what is counted."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import REGISTRY

from services.encoder.lanes import Lanes
from services.encoder.settings import EncoderSettings
from shared.engines import Engine, TokensError, open_engine
from shared.engines.images import ImageError
from tests.support.photos import draw


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Engine:
    return open_engine(tiny_model, engine="onnx", device="cpu", threads=1)


def photo() -> bytes:
    out = io.BytesIO()
    draw("ball", "red", "blue").save(out, "JPEG")
    return out.getvalue()


def counted(name: str) -> list[float]:
    return [REGISTRY.get_sample_value(name, {"lane": lane}) or 0 for lane in ("text", "image", "rerank")]


async def test_each_kind_of_work_is_counted_in_its_lane(engine: Engine) -> None:
    names = ("diptych_encoder_batch_size_sum", "diptych_encoder_model_seconds_count")
    before = [counted(name) for name in names]
    lanes = Lanes(EncoderSettings(max_text_batch=2))
    async with lanes.running():
        texts = await lanes.embed_texts(engine, ["a dog", "a cat", "a car"])
        ((_, image),) = await lanes.embed_image(engine, photo())
        logits = await lanes.rerank(engine, [text for _, text in texts], [image] * 3)
    assert np.allclose(logits, engine.rerank([text for _, text in texts], [image] * 3), atol=1e-4)
    after = [counted(name) for name in names]
    assert np.subtract(after, before).tolist() == [[3, 1, 1], [2, 1, 1]]


async def test_a_bad_image_among_good_ones_fails_alone(engine: Engine) -> None:
    lanes = Lanes(EncoderSettings())
    async with lanes.running():
        files = [photo(), b"no photo", photo()[:400], photo()]
        found = await asyncio.gather(*(lanes.embed_image(engine, file) for file in files), return_exceptions=True)
    assert [type(one) for one in found] == [list, ImageError, ImageError, list]


async def test_pairs_that_are_none_are_refused(engine: Engine) -> None:
    lanes = Lanes(EncoderSettings())
    async with lanes.running():
        ((_, text),) = await lanes.embed_texts(engine, ["a dog"])
        with pytest.raises(TokensError, match="tokens; this model makes"):
            await lanes.rerank(engine, [text], [text])
