"""Small CLIP-class models with random weights, in the folders and files that open_clip takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch

VIT: dict[str, Any] = {"image_size": 64, "patch_size": 16, "width": 64, "layers": 2, "head_width": 32}
TEXT: dict[str, Any] = {"context_length": 24, "width": 64, "heads": 2, "layers": 2}
MEAN = (0.5, 0.4, 0.3)


def write_clip(folder: Path, vision: dict[str, Any] | None = None, **text: Any) -> str:
    """Write ``open_clip_config.json`` and weights in open_clip's own form; the name by which open_clip finds them."""
    network = {"embed_dim": 32, "vision_cfg": vision or VIT, "text_cfg": TEXT | text}
    folder.mkdir(parents=True)
    config = {"model_cfg": network, "preprocess_cfg": {"mean": MEAN, "std": (0.25,) * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = open_clip.CLIP(**network)
    with torch.no_grad():
        for parameter in model.parameters():  # some of them start at zero
            parameter.add_(0.02 * torch.randn_like(parameter))
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return f"local-dir:{folder}"


def opened(model: str) -> Any:
    """The model as open_clip itself opens it."""
    return open_clip.create_model(model, require_pretrained=True).eval().requires_grad_(False)
