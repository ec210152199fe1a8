"""From torch modules to a model artifact: half-precision safetensors, and ONNX graphs whose weights lie in them."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from safetensors.torch import save
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.export import Dim

from shared.artifacts import (
    ArtifactError,
    ImagePreprocessing,
    ModelManifest,
    Tokenization,
    fingerprint,
    hash_files,
    write_manifest,
)
from shared.artifacts.manifest import TOWERS
from shared.engines.onnx_engine import OnnxEngine
from shared.models import RERANKER, Diptych, DualEncoder, Reranker, load
from shared.models.diptych import SCALE_SUFFIX
from shared.schemas import Scoring

_INLINE_BYTES = 1024
# What is smaller stays float16: photos' vectors then keep a cosine of 0.9999, else 0.9992, and it saves little.
_LEAST_INT8, _LEAST_COLUMNS = 16_384, 32
_CONVOLUTION_BLOCK, _MATRIX_BLOCK = 16, 32
_MIN_COSINE = 0.999
_TIE = 1e-4


class ParityError(ArtifactError):
    """The exported graphs do not compute what the torch modules compute; the artifact must not be published."""


def export(
    model: Diptych,
    tokenizer: Tokenizer,
    directory: Path,
    *,
    name: str,
    version: str = "1",
    vocabulary: Mapping[str, int] | None = None,
    scoring: Scoring | None = None,
    metrics: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    int8: bool = False,
) -> ModelManifest:
    """Write a complete model artifact into ``directory``, an empty or new one. :func:`check_parity` is to follow.

    With ``int8`` the towers' matrices and convolutions are stored as their tables always are.
    """
    directory.mkdir(parents=True, exist_ok=True)
    towers = model.towers.float().cpu().eval()
    stored = _save(towers, directory / TOWERS, int8=int8)
    size, text = towers.config.image.size, towers.config.text
    batch, length = Dim("batch", max=4096), Dim("length", max=text.max_length)
    ids = torch.ones(2, min(8, text.max_length), dtype=torch.int64)
    _export_graph(
        _Method(towers, "encode_image"),
        (torch.zeros(2, size, size, 3, dtype=torch.uint8),),
        ["pixels"],
        ["embedding", "tokens"],
        [{0: batch}],
        directory / "image.onnx",
        stored,
    )
    _export_graph(
        _Method(towers, "encode_text"),
        (ids, torch.ones_like(ids)),
        ["input_ids", "attention_mask"],
        ["embedding", "tokens"],
        [{0: batch, 1: length}, {0: batch, 1: length}],
        directory / "text.onnx",
        stored,
    )
    if model.reranker is not None:
        _export_reranker(model.reranker.float().cpu().eval(), towers, directory)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.save(str(directory / "tokenizer.json"))
    if vocabulary is not None:
        (directory / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    image = towers.config.image
    manifest = ModelManifest(
        name=name,
        version=version,
        fingerprint="",
        embedding_dim=towers.config.embedding_dim,
        token_dim=towers.config.token_dim,
        preprocessing=ImagePreprocessing(size=size, mean=image.mean, std=image.std),
        tokenization=Tokenization(max_length=text.max_length),
        config=model.config.model_dump(mode="json"),
        has_reranker=model.reranker is not None,
        scoring=scoring or Scoring(),
        metrics=dict(metrics or {}),
        training=dict(training or {}),
        files=hash_files(directory),
    )
    manifest = manifest.model_copy(update={"fingerprint": fingerprint(directory, manifest)})
    write_manifest(directory, manifest)
    return manifest


def check_parity(
    directory: Path, pixels: np.ndarray[Any, np.dtype[np.uint8]], texts: Sequence[str]
) -> dict[str, float]:
    """Compare the graphs with the torch modules as loaded from the same artifact.

    ``pixels`` is (B, H, W, 3); the i-th text should belong to the i-th picture. Returns the lowest cosine per tower and
    the share of texts for which both find the same picture, or one as near. Raises :class:`ParityError`.
    """
    engine, model = OnnxEngine(directory), load(directory)
    images, captions = engine.embed_images(pixels), engine.embed_texts(texts)
    ids, mask = engine.tokenizer.encode(texts)
    with torch.inference_mode():
        image_reference = model.encode_image(torch.from_numpy(pixels))[0].numpy()
        text_reference = model.encode_text(torch.from_numpy(ids), torch.from_numpy(mask))[0].numpy()
    best = (captions.embedding @ images.embedding.T).argmax(axis=1)
    reference = text_reference @ image_reference.T
    lost = reference.max(axis=1) - reference[np.arange(len(best)), best]  # two alike pictures may change places
    report = {
        "image_cosine": float((images.embedding * image_reference).sum(axis=1).min()),
        "text_cosine": float((captions.embedding * text_reference).sum(axis=1).min()),
        "rank_agreement": float((lost < _TIE).mean()),
    }
    if min(report["image_cosine"], report["text_cosine"]) <= _MIN_COSINE or report["rank_agreement"] < _MIN_COSINE:
        raise ParityError(
            f"{directory}: the ONNX graphs and the torch modules disagree ({report}); nothing was published"
        )
    return report


class _Method(nn.Module):
    """Exports one method of a module as if it were ``forward``."""

    def __init__(self, module: nn.Module, method: str) -> None:
        super().__init__()
        self.module = module
        self._method = method

    def forward(self, *inputs: Tensor) -> Any:
        return getattr(self.module, self._method)(*inputs)


def _export_reranker(reranker: Reranker, towers: DualEncoder, directory: Path) -> None:
    dim, places = towers.config.token_dim, towers.image.side**2
    batch, length = Dim("batch", max=4096), Dim("length", max=towers.config.text.max_length)
    _export_graph(
        _Method(reranker, "forward"),
        (torch.zeros(2, 8, dim), torch.ones(2, 8, dtype=torch.bool), torch.zeros(2, places, dim)),
        ["text_tokens", "text_mask", "image_tokens"],
        ["logit"],
        [{0: batch, 1: length}, {0: batch, 1: length}, {0: batch}],
        directory / "reranker.onnx",
        _save(reranker, directory / RERANKER),
    )


def _save(module: nn.Module, path: Path, *, int8: bool = False) -> Path:
    """Matrices as float16, vectors as float32, large embedding tables as int8 with one float16 scale a row.

    With ``int8`` every large matrix or convolution is, a row being what makes one output, with a scale for every
    16 values of a convolution's row, or 32 of a matrix's, or fewer.
    """
    embeddings = {f"{name}.weight" for name, child in module.named_modules() if isinstance(child, nn.Embedding)}
    tensors: dict[str, Tensor] = {}
    for name, value in module.state_dict().items():
        half = value.is_floating_point() and value.ndim > 1
        rows = value.flatten(1) if half else value
        large = half and value.numel() >= _LEAST_INT8 and rows.shape[1] >= _LEAST_COLUMNS
        if (int8 and large) or (half and name in embeddings and value.numel() > 1_000_000):
            block = _block(value) if int8 else rows.shape[1]
            blocks = rows.view(len(rows), -1, block)
            scale = (blocks.abs().amax(dim=2) / 127).clamp(min=1e-7).half()
            codes = (blocks / scale.float()[..., None]).round().clamp(-127, 127).to(torch.int8)
            tensors[name], tensors[name + SCALE_SUFFIX] = codes.view(value.shape), scale
        else:
            tensors[name] = (value.half() if half else value).contiguous()
        if not torch.isfinite(tensors[name].float()).all():
            raise ArtifactError(f"weight {name} is not finite in storage; the model must not be published")
    path.write_bytes(save(tensors))
    return path


def _block(weight: Tensor) -> int:
    """How many values of a row share a scale: as many as may and fill the row."""
    most = _MATRIX_BLOCK if weight.ndim == 2 else _CONVOLUTION_BLOCK
    columns = weight[0].numel()
    return next(size for size in range(min(most, columns), 0, -1) if columns % size == 0)


def _export_graph(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    input_names: list[str],
    output_names: list[str],
    dynamic: list[dict[int, Any]],
    path: Path,
    weights: Path,
) -> None:
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                inputs,
                input_names=input_names,
                output_names=[f"{name}.out" for name in output_names],
                dynamic_shapes=({"inputs": tuple(dynamic)}),
                dynamo=True,
                optimize=False,  # folding would make new weights; ONNX Runtime folds when it loads
                verbose=False,
            )
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    assert program is not None
    proto = program.model_proto
    _tidy(proto, output_names)
    _cast_outright(proto)
    _point_into(proto, weights)
    onnx.save_model(proto, str(path))
    onnx.checker.check_model(str(path))


def _tidy(proto: onnx.ModelProto, output_names: list[str]) -> None:
    """Give the outputs their names, which inner values may have taken, and drop the exporter's notes on our sources."""
    renamed = {name: f"{name}.inner" for name in output_names} | {f"{name}.out": name for name in output_names}
    graph = proto.graph
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*graph.output, *graph.value_info, *graph.initializer):
        value.name = renamed.get(value.name, value.name)
        del value.metadata_props[:]
    for value in graph.input:
        del value.metadata_props[:]
    del graph.metadata_props[:], proto.metadata_props[:]


def _cast_outright(proto: onnx.ModelProto) -> None:
    """Say what type each CastLike casts to.

    ONNX Runtime finds out only after it has folded constants for the last time. The biases of convolutions hang on one,
    so that these stayed apart from their norms and activations, and a photo took 2.7 times as long.
    """
    graph = proto.graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "CastLike" and node.input[1] in types:
            node.op_type = "Cast"
            node.attribute.append(helper.make_attribute("to", types[node.input.pop()]))


def _point_into(proto: onnx.ModelProto, weights: Path) -> None:
    """Replace weights in the graph by references into the safetensors file, cast to float32 when loaded."""
    with weights.open("rb") as file:
        start = 8 + int.from_bytes(head := file.read(8), "little")
        layout = json.loads(file.read(start - len(head)))
    types = {"F16": TensorProto.FLOAT16, "I8": TensorProto.INT8, "F32": TensorProto.FLOAT, "I64": TensorProto.INT64}

    def external(key: str, name: str) -> onnx.TensorProto:
        begin, end = layout[key]["data_offsets"]
        tensor = TensorProto(name=name, data_type=types[layout[key]["dtype"]], dims=layout[key]["shape"])
        tensor.data_location = TensorProto.EXTERNAL
        for field, value in (("location", weights.name), ("offset", start + begin), ("length", end - begin)):
            tensor.external_data.add(key=field, value=str(value))
        return tensor

    kept: list[onnx.TensorProto] = []
    casts: list[onnx.NodeProto] = []
    for initializer in proto.graph.initializer:
        key = initializer.name.removeprefix("module.")
        if key not in layout or _nbytes(initializer) <= _INLINE_BYTES:
            kept.append(initializer)
            continue
        name, dtype = initializer.name, layout[key]["dtype"]
        if dtype in ("F32", "I64"):
            kept.append(external(key, name))
            continue
        stored = f"{name}.stored"
        kept.append(external(key, stored))
        if dtype == "F16":
            casts.append(helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT))
            continue
        shape = layout[key]["shape"]
        rows, blocks = layout[key + SCALE_SUFFIX]["shape"]
        kept.append(external(key + SCALE_SUFFIX, f"{name}.scale"))
        for part, dims in {"blocks": [rows, blocks, -1], "column": [rows, blocks, 1], "shape": shape}.items():
            kept.append(helper.make_tensor(f"{name}.{part}", TensorProto.INT64, [len(dims)], dims))
        casts += [
            helper.make_node("Cast", [stored], [f"{name}.codes"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", [f"{name}.codes", f"{name}.blocks"], [f"{name}.blocked"]),
            helper.make_node("Cast", [f"{name}.scale"], [f"{name}.scale32"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", [f"{name}.scale32", f"{name}.column"], [f"{name}.scales"]),
            helper.make_node("Mul", [f"{name}.blocked", f"{name}.scales"], [f"{name}.values"]),
            helper.make_node("Reshape", [f"{name}.values", f"{name}.shape"], [name]),
        ]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    replaced = {node.output[0] for node in casts}
    infos = [info for info in proto.graph.value_info if info.name not in replaced]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(infos)


def _nbytes(tensor: onnx.TensorProto) -> int:
    return int(np.prod(tensor.dims)) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
