"""An exported artifact: one copy of the weights, graphs that compute what torch computes, nothing of this machine."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors import safe_open

from shared.artifacts import ArtifactError, fingerprint, verify_files
from shared.engines import open_engine
from shared.models import (
    Diptych,
    DiptychConfig,
    ImageTowerConfig,
    RerankerConfig,
    TextTowerConfig,
    Towers,
    TowersConfig,
    load,
)
from tests.support.artifacts import model_manifest
from training import export
from training.data import vocabulary
from training.export import ParityError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (4, 96, 96, 3), np.uint8)
TEXTS = ["a red ball", "the dog runs on the beach with a child", "snow", "a man plays"]


def test_the_manifest_describes_the_artifact(tiny_model: Path) -> None:
    manifest = model_manifest(tiny_model)
    verify_files(tiny_model, manifest)
    assert set(manifest.files) == {
        *("towers.safetensors", "reranker.safetensors", "image.onnx", "text.onnx", "reranker.onnx"),
        *("tokenizer.json", "vocab.json"),
    }
    assert (manifest.embedding_dim, manifest.token_dim, manifest.has_reranker) == (64, 16, True)
    assert (manifest.preprocessing.size, manifest.tokenization.max_length) == (96, 16)
    assert manifest.fingerprint == fingerprint(tiny_model, manifest)


def test_the_weights_lie_in_the_safetensors_files_only(tiny_model: Path) -> None:
    model = load(tiny_model)
    values = sum(value.numel() for value in model.state_dict().values() if value.ndim > 1)
    stored = sum((tiny_model / name).stat().st_size for name in ("towers.safetensors", "reranker.safetensors"))
    everything = sum(file.bytes for file in model_manifest(tiny_model).files.values())
    assert stored < 2 * values + 150_000  # two bytes a weight; vectors and names are the rest
    for graph in ("image", "text", "reranker"):
        proto = onnx.load(str(tiny_model / f"{graph}.onnx"), load_external_data=False)
        inside = [i for i in proto.graph.initializer if i.data_location != onnx.TensorProto.EXTERNAL]
        assert max(np.prod(i.dims) for i in inside) <= 1024
        where = {e.value for i in proto.graph.initializer for e in i.external_data if e.key == "location"}
        assert where == {"reranker.safetensors" if graph == "reranker" else "towers.safetensors"}
    assert everything < 2 * stored


def test_nothing_of_this_machine_is_in_the_artifact(tiny_model: Path) -> None:
    root = str(Path(__file__).parents[2]).encode()
    for path in tiny_model.iterdir():
        data = path.read_bytes()
        for trace in (root, str(Path.home()).encode() + b"/", b"site-packages", b"/tmp", b".py"):
            assert trace not in data, f"{path.name} holds {trace!r}"


def test_the_graphs_compute_what_the_modules_compute(tiny_model: Path) -> None:
    report = export.check_parity(tiny_model, PIXELS, TEXTS)
    assert min(report["image_cosine"], report["text_cosine"]) > 0.9999
    assert report["rank_agreement"] == 1


def test_the_engine_folds_norms_into_convolutions(tiny_model: Path, tmp_path: Path) -> None:
    """Left apart, a photo takes more than twice as long."""
    import onnxruntime as ort  # after the engine, which tells it to report nothing

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    ort.InferenceSession(str(tiny_model / "image.onnx"), options, providers=["CPUExecutionProvider"])
    loaded = onnx.load(options.optimized_model_filepath, load_external_data=False)
    assert not {"BatchNormalization", "CastLike"} & {node.op_type for node in loaded.graph.node}


@pytest.mark.parametrize("tower", ["image", "text"])
def test_graphs_that_compute_something_else_are_not_published(tiny_model: Path, tower: str, tmp_path: Path) -> None:
    """The graph reads the projection of the other half of the weights file's bytes."""
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    path = copy / f"{tower}.onnx"
    proto = onnx.load(str(path), load_external_data=False)
    weights = {i.name.removesuffix(".stored"): i for i in proto.graph.initializer}
    target = weights[f"module.{tower}.projection.weight"]
    for entry in target.external_data:
        if entry.key == "offset":
            entry.value = str(int(entry.value) + 128)
    onnx.save_model(proto, str(path))
    with pytest.raises(ParityError, match=r"the ONNX graphs and the torch modules disagree .* nothing was published"):
        export.check_parity(copy, PIXELS, TEXTS)


def test_two_alike_pictures_are_no_disagreement(tiny_model: Path) -> None:
    assert export.check_parity(tiny_model, PIXELS[[0, 0, 1, 1]], TEXTS)["rank_agreement"] == 1


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Diptych]:
    """A GRU with 20,000 words of 64 numbers, a grid of 4 x 4 averaged to 3 x 3, no reranker."""
    torch.manual_seed(1)
    config = DiptychConfig(
        towers=TowersConfig(
            embedding_dim=32,
            token_dim=8,
            image=ImageTowerConfig(backbone="test_efficientnet", size=128, grid=3),
            text=TextTowerConfig(kind="gru", vocab_size=20_000, width=64, max_length=16),
        )
    )
    model = Diptych.build(config)
    directory = tmp_path_factory.mktemp("wide") / "model"
    words = vocabulary.build([" ".join(TEXTS)], min_count=1)
    export.export(model, vocabulary.tokenizer(words), directory, name="wide", vocabulary=words)
    return directory, model


def test_a_large_table_of_words_is_stored_in_one_byte_a_number(wide: tuple[Path, Diptych]) -> None:
    directory, model = wide
    key = "text.encoder.words.weight"
    with safe_open(directory / "towers.safetensors", "pt") as stored:
        assert stored.get_slice(key).get_dtype() == "I8"
        assert stored.get_slice(f"{key}.scale").get_shape() == [20_000, 1]
    original, loaded = model.state_dict()[f"towers.{key}"], load(directory).state_dict()[f"towers.{key}"]
    assert loaded.dtype == torch.float32
    step = original.abs().amax(dim=1) / 127
    assert ((original - loaded).abs().amax(dim=1) <= 0.6 * step + 1e-6).all()
    assert export.check_parity(
        directory, RNG.integers(0, 256, (3, 128, 128, 3), np.uint8), ["a red ball", "dog", "snow"]
    )
    assert (directory / "text.onnx").stat().st_size < 200_000
    assert not (directory / "reranker.onnx").exists()
    assert not open_engine(directory, engine="onnx", device="cpu").manifest.has_reranker


@pytest.mark.parametrize(("library", "backbone", "size"), [("timm", "test_vit", 80), ("torchvision", "resnet18", 64)])
def test_other_backbones_are_served_too(library: str, backbone: str, size: int, tmp_path: Path) -> None:
    torch.manual_seed(2)
    image = ImageTowerConfig.model_validate({"library": library, "backbone": backbone, "size": size, "grid": 2})
    words = vocabulary.build(TEXTS, min_count=1)
    text = TextTowerConfig(kind="gru", vocab_size=len(words), width=16, max_length=16)
    model = Diptych.build(DiptychConfig(towers=TowersConfig(embedding_dim=32, token_dim=8, image=image, text=text)))
    export.export(model, vocabulary.tokenizer(words), tmp_path / "model", name="other", vocabulary=words)
    pixels = RNG.integers(0, 256, (4, size, size, 3), np.uint8)
    report = export.check_parity(tmp_path / "model", pixels, TEXTS)
    assert min(report["image_cosine"], report["text_cosine"]) > 0.9999
    found = open_engine(tmp_path / "model", engine="onnx", device="cpu").embed_images(pixels)
    assert found.embedding.shape == (4, 32)
    assert {item.codes.shape for item in found.tokens} == {(4, 8)}


def test_the_fingerprint_is_the_towers_and_the_tokenizers(tiny_model: Path, tmp_path: Path) -> None:
    """Another reranker on equal towers fits the index that is there."""
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    own = model_manifest(tiny_model).fingerprint
    for name, stays in (("reranker.safetensors", True), ("towers.safetensors", False), ("tokenizer.json", False)):
        data = bytearray((copy / name).read_bytes())
        (copy / name).write_bytes(data[:-1] + b"~")
        assert (fingerprint(copy, model_manifest(copy)) == own) == stays
        (copy / name).write_bytes(data)


def test_weights_that_are_not_finite_are_not_exported(tmp_path: Path) -> None:
    config = DiptychConfig(
        towers=TowersConfig(
            image=ImageTowerConfig(backbone="test_efficientnet", size=64),
            text=TextTowerConfig(kind="gru", vocab_size=20, width=16),
        ),
        reranker=RerankerConfig(width=16, layers=1),
    )
    model = Diptych.build(config)
    assert isinstance(model.towers, Towers)
    with torch.no_grad():
        model.towers.text.projection.weight[0, 0] = 1e6  # beyond half precision
    words = vocabulary.build(TEXTS, min_count=1)
    with pytest.raises(ArtifactError, match=r"text\.projection\.weight is not finite in storage"):
        export.export(model, vocabulary.tokenizer(words), tmp_path / "model", name="bad")
