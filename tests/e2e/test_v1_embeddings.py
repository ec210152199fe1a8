"""Embeddings, asked for with OpenAI's own client."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from shared.client import Client
from tests.support.oracle import Oracle
from tests.support.stack import Stack
from tests.support.store import Prepared


@pytest.fixture(scope="module")
def api(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stack.url('gateway')}/v1", api_key="dk_any", max_retries=0) as api:
        yield api


@pytest.fixture(scope="module")
def oracle(tiny_model: Path, prepared: Prepared) -> Oracle:
    return Oracle(tiny_model, prepared)


def detail(error: openai.APIStatusError) -> str:
    """Of the problem document, which this client keeps as the error's body."""
    assert isinstance(error.body, dict)
    return str(error.body["detail"])


def test_texts(api: openai.OpenAI, oracle: Oracle) -> None:
    texts = ["a red ball on blue", " the cat ", "x"]
    answer = api.embeddings.create(input=texts, model="tiny/1")  # this client asks for base64 by itself
    assert [one.index for one in answer.data] == [0, 1, 2]
    for text, one in zip(texts, answer.data, strict=True):
        assert one.embedding == pytest.approx(oracle.text_vector(text.strip()).tolist(), abs=2e-3)
    assert answer.model == "tiny/1"
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(map(oracle.token_count, texts))


def test_floats_and_base64_are_the_same(api: openai.OpenAI, client: Client) -> None:
    floats = api.embeddings.create(input="a red ball", model="tiny", encoding_format="float").data[0].embedding
    packed = api.embeddings.create(input="a red ball", model="tiny", encoding_format="base64").data[0].embedding
    assert isinstance(packed, str)
    assert np.frombuffer(base64.b64decode(packed), "<f4").tolist() == pytest.approx(floats, abs=1e-6)
    assert client.embed(["a red ball"], "tiny")[0].tolist() == pytest.approx(floats, abs=1e-6)
    assert api.embeddings.create(input="a", model="tiny", dimensions=len(floats)).data


def test_pictures_among_texts(api: openai.OpenAI, client: Client, oracle: Oracle, photo: Path) -> None:
    (image_id,) = (image_id for image_id, name in oracle.names.items() if name == photo.name)
    uri = f"data:image/png;base64,{base64.b64encode(photo.read_bytes()).decode()}"
    first, second = api.embeddings.create(input=[uri, "a cat"], model="tiny").data
    assert first.embedding == pytest.approx(oracle.image_vector(image_id).tolist(), abs=2e-3)
    assert second.embedding == pytest.approx(oracle.text_vector("a cat").tolist(), abs=2e-3)
    assert client.embed([photo, "a cat"], "tiny") == pytest.approx(np.array([first.embedding, second.embedding]))


def test_what_is_refused(api: openai.OpenAI) -> None:
    uri = "data:image/png;base64,?"
    refusals: list[tuple[Any, dict[str, Any], str]] = [
        ([1, 2, 3], {}, "token ids of another model"),
        ([[1, 2]], {}, "token ids of another model"),
        ("a", {"dimensions": 7}, "no other number, not 7"),
        ([], {}, "input"),
        (["a"] * 257, {}, "input"),
        (" ", {}, "blank"),
        ("data:image/png,abc", {}, "input.0: a data: URI"),
        (["a", uri], {}, "input.1: it is not base64"),
    ]
    for said, options, says in refusals:
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            api.embeddings.create(input=said, model="tiny", **options)
        assert says in detail(caught.value)
    with pytest.raises(openai.NotFoundError) as missing:
        api.embeddings.create(input="a", model="text-embedding-3-small")
    assert "tiny/1" in detail(missing.value)


def test_the_models(api: openai.OpenAI) -> None:
    models = api.models.list().data
    assert "tiny/1" in [model.id for model in models]
    assert api.models.retrieve("tiny/1").owned_by == "diptych"
    with pytest.raises(openai.NotFoundError) as caught:
        api.models.retrieve("gpt")
    assert "there is no model 'gpt'" in detail(caught.value)
