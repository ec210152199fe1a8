"""Both engines over one real artifact: what they promise, that they agree, and what they refuse to open."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import skimage.data
import torch
from PIL import Image

from shared.artifacts import ArtifactError, IndexManifest, write_manifest
from shared.engines import Engine, NoRerankerError, TokensError, open_engine
from shared.engines.texts import TextError
from shared.tokens import TokenFeatures
from tests.support.variants import described, without_reranker

TEXTS = ["a dog runs on the beach", "cat", "the red ball is on the ground with a child and a man in the snow", "a car"]
PHOTOS = ("astronaut", "coffee", "chelsea", "rocket")
PLACES, DIM, TOKEN_DIM = 9, 64, 16


@pytest.fixture(scope="module")
def photos() -> npt.NDArray[np.uint8]:
    """(4, 96, 96, 3)"""
    sources = [Image.fromarray(getattr(skimage.data, name)()) for name in PHOTOS]
    return np.stack([np.asarray(source.resize((96, 96))) for source in sources])


@pytest.fixture(scope="module")
def onnx(tiny_model: Path) -> Engine:
    return open_engine(tiny_model, engine="onnx", device="cpu", threads=1)


@pytest.fixture(scope="module")
def torch_cpu(tiny_model: Path) -> Engine:
    return open_engine(tiny_model, engine="torch", device="cpu")


@pytest.fixture(scope="module", params=["onnx", "torch_cpu"])
def engine(request: pytest.FixtureRequest) -> Engine:
    found: Engine = request.getfixturevalue(request.param)
    return found


def lowest_cosine(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    return float((one * other).sum(axis=1).min())


def assert_same_tokens(one: TokenFeatures, other: TokenFeatures, tolerance: float) -> None:
    assert len(one) == len(other)
    assert np.abs(one.dequantise() - other.dequantise()).max() <= tolerance * np.abs(one.dequantise()).max()


def test_images_become_unit_vectors_and_tokens(engine: Engine, photos: npt.NDArray[np.uint8]) -> None:
    found = engine.embed_images(photos)
    assert found.embedding.shape == (4, DIM)
    assert found.embedding.dtype == np.float32
    assert np.allclose(np.linalg.norm(found.embedding, axis=1), 1, atol=1e-5)
    assert [item.codes.shape for item in found.tokens] == [(PLACES, TOKEN_DIM)] * 4
    assert len({vector.tobytes() for vector in found.embedding}) == 4


def test_texts_become_unit_vectors_and_as_many_tokens_as_they_have(engine: Engine) -> None:
    found = engine.embed_texts(TEXTS)
    assert found.embedding.shape == (4, DIM)
    assert found.embedding.dtype == np.float32
    assert np.allclose(np.linalg.norm(found.embedding, axis=1), 1, atol=1e-5)
    words = [len(text.split()) for text in TEXTS]
    lengths = [len(item) for item in found.tokens]
    assert np.argsort(lengths).tolist() == np.argsort(words).tolist()
    assert max(lengths) <= engine.manifest.tokenization.max_length


def test_nobody_is_changed_by_the_company_in_a_batch(engine: Engine, photos: npt.NDArray[np.uint8]) -> None:
    for whole, alone in (
        (engine.embed_texts(TEXTS), [engine.embed_texts([text]) for text in TEXTS]),
        (engine.embed_images(photos), [engine.embed_images(photo[None]) for photo in photos]),
    ):
        assert lowest_cosine(whole.embedding, np.concatenate([one.embedding for one in alone])) > 0.99999
        for together, one in zip(whole.tokens, alone, strict=True):
            assert_same_tokens(together, one.tokens[0], 0.02)


def test_the_engines_agree(onnx: Engine, torch_cpu: Engine, photos: npt.NDArray[np.uint8]) -> None:
    assert (onnx.runtime, torch_cpu.runtime) == ("onnx cpu", "torch cpu")
    for one, other in (
        (onnx.embed_images(photos), torch_cpu.embed_images(photos)),
        (onnx.embed_texts(TEXTS), torch_cpu.embed_texts(TEXTS)),
    ):
        assert lowest_cosine(one.embedding, other.embedding) > 0.9999
        for left, right in zip(one.tokens, other.tokens, strict=True):
            assert_same_tokens(left, right, 0.02)
    texts, images = onnx.embed_texts(TEXTS).tokens, onnx.embed_images(photos).tokens
    assert np.allclose(onnx.rerank(texts, images), torch_cpu.rerank(texts, images), atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_half_precision_on_a_gpu_agrees_too(tiny_model: Path, onnx: Engine, photos: npt.NDArray[np.uint8]) -> None:
    gpu = open_engine(tiny_model)
    assert gpu.runtime == "torch cuda"
    images, texts = gpu.embed_images(photos), gpu.embed_texts(TEXTS)
    assert lowest_cosine(images.embedding, onnx.embed_images(photos).embedding) > 0.999
    assert lowest_cosine(texts.embedding, onnx.embed_texts(TEXTS).embedding) > 0.999
    logits = gpu.rerank(texts.tokens, images.tokens)
    assert np.allclose(logits, onnx.rerank(texts.tokens, images.tokens), atol=0.05)


def test_a_pair_s_logit_is_its_own(engine: Engine, photos: npt.NDArray[np.uint8]) -> None:
    texts, images = engine.embed_texts(TEXTS).tokens, engine.embed_images(photos).tokens
    pairs = [(text, image) for text in texts for image in images] * 20  # several calls of the model
    logits = engine.rerank([text for text, _ in pairs], [image for _, image in pairs])
    assert logits.shape == (320,)
    assert logits.dtype == np.float32
    alone = [engine.rerank([text], [image])[0] for text, image in pairs[:16]]
    assert np.allclose(logits.reshape(20, 16), alone, atol=1e-4)
    assert len(np.unique(np.round(alone, 4))) > 8
    assert engine.rerank([], []).shape == (0,)


def test_tokens_of_another_model_are_refused(engine: Engine, photos: npt.NDArray[np.uint8]) -> None:
    text, image = engine.embed_texts(TEXTS[:1]).tokens[0], engine.embed_images(photos[:1]).tokens[0]
    with pytest.raises(TokensError, match="2 texts and 1 images"):
        engine.rerank([text, text], [image])
    with pytest.raises(TokensError, match=f"an image has 4 tokens; this model makes {PLACES}"):
        engine.rerank([text], [TokenFeatures(image.codes[:4], image.scales[:4])])
    long = TokenFeatures(np.repeat(text.codes[:1], 17, 0), np.repeat(text.scales[:1], 17))
    with pytest.raises(TokensError, match="17 tokens; this model makes at most 16"):
        engine.rerank([long], [image])


def test_texts_that_are_none_are_refused(engine: Engine) -> None:
    with pytest.raises(TextError, match="empty"):
        engine.embed_texts(["a dog", " "])


@pytest.mark.parametrize("name", ["onnx", "torch"])
def test_a_model_without_a_reranker(name: str, tiny_model: Path, tmp_path: Path) -> None:
    towers = open_engine(without_reranker(tiny_model, tmp_path / "towers", "2"), engine=name, device="cpu")
    text = towers.embed_texts(TEXTS[:1])
    with pytest.raises(NoRerankerError, match="tiny/2 has no reranker"):
        towers.rerank(text.tokens, text.tokens)


def cut(path: Path) -> None:
    (path / "towers.safetensors").write_bytes((path / "towers.safetensors").read_bytes()[:-1000])


def alter(path: Path) -> None:
    data = bytearray((path / "towers.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "towers.safetensors").write_bytes(data)


def lose(path: Path) -> None:
    (path / "image.onnx").unlink()


def lose_manifest(path: Path) -> None:
    (path / "manifest.json").unlink()


def scribble(path: Path) -> None:
    (path / "manifest.json").write_text('{"kind": "model"}')


def publish_nonsense(path: Path) -> None:
    (path / "text.onnx").write_bytes(b"no graph")
    described(path)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (cut, r"towers\.safetensors has \d+ bytes, its manifest says \d+"),
        (alter, r"towers\.safetensors is not the file that was published"),
        (lose, r"image\.onnx is missing"),
        (lose_manifest, r"is not an artifact: it has no manifest\.json"),
        (scribble, r"not a manifest this version understands"),
        (publish_nonsense, r"text\.onnx cannot be loaded"),
    ],
)
def test_a_damaged_artifact_is_not_opened(
    damage: Callable[[Path], None], says: str, tiny_model: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "model"
    shutil.copytree(tiny_model, copy)
    damage(copy)
    with pytest.raises(ArtifactError, match=says):
        open_engine(copy, engine="onnx")


def test_an_index_is_no_model(tmp_path: Path) -> None:
    manifest = IndexManifest(
        name="photos", version="1", fingerprint="f", embedding_dim=64, token_dim=16, model="tiny/1", photo_root="/",
        collections={}, contents="c",
    )  # fmt: skip
    write_manifest(tmp_path, manifest)
    with pytest.raises(ArtifactError, match="holds an index, not a model"):
        open_engine(tmp_path)


def test_an_engine_that_is_unknown(tiny_model: Path) -> None:
    with pytest.raises(ValueError, match="auto, onnx or torch, not 'tensorrt'"):
        open_engine(tiny_model, engine="tensorrt")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there(tiny_model: Path) -> None:
    assert open_engine(tiny_model).runtime == "onnx cpu"
    with pytest.raises(ValueError, match="device cuda:1 was asked for, but this ONNX Runtime has only"):
        open_engine(tiny_model, engine="onnx", device="cuda:1")
    with pytest.raises(ValueError, match="device cuda:1 was asked for, but torch"):
        open_engine(tiny_model, engine="torch", device="cuda:1")
