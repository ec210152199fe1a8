"""CLIP-class joint encoders to start from: open_clip's networks, with a weights file or what open_clip downloads."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from torch import Tensor

from shared.models import ClipConfig, ClipImageConfig, ClipTextConfig, ClipTowers
from shared.models.hubness import EXTRA
from training.pretrained import WeightsError

_NETWORK = ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu")
_WORDS = 49408
_MIN_COSINE = 0.9999


def load(
    model: str, weights: str | None, *, token_dim: int = 128, grid: int = 7, bank: int = 0
) -> tuple[ClipTowers, Tokenizer]:
    """Towers with an open_clip model's weights, and its tokenizer.

    ``model`` is a name that open_clip knows, ``local-dir:FOLDER`` with an ``open_clip_config.json``, or
    ``hf-hub:OWNER/NAME``. ``weights`` goes with a name: a file, or the tag of weights that open_clip downloads. Raises
    :class:`WeightsError` for what cannot be had, and for models of which we would compute something else.
    """
    open_clip = _open_clip()
    network = _network(open_clip, model, weights)
    with _told(model, weights):
        source = open_clip.create_model(
            model, pretrained=weights, precision="fp32", force_custom_text=True, require_pretrained=True
        ).eval()
    preprocessing = open_clip.get_model_preprocess_cfg(source)
    size = source.visual.image_size
    config = ClipConfig(
        network={key: network[key] for key in _NETWORK if key in network},
        embedding_dim=network["embed_dim"] + (EXTRA if bank else 0),
        bank=bank,
        token_dim=token_dim,
        image=ClipImageConfig(
            size=size if isinstance(size, int) else size[0],
            mean=preprocessing["mean"],
            std=preprocessing["std"],
            grid=grid,
        ),
        text=ClipTextConfig(max_length=source.context_length),
    )
    torch.manual_seed(0)  # the token projections are random, and the same model has to have the same fingerprint
    towers = ClipTowers(config).eval()
    towers.image.backbone.network.load_state_dict(source.visual.state_dict())
    towers.text.encoder.network.load_state_dict(source.text.state_dict())
    towers.log_scale.data.copy_(source.logit_scale.data.reshape(()))
    _check_same(towers, source, model)
    return towers, tokenizer()


def named(source: str | None) -> str | None:
    """``model`` or ``weights`` as a record keeps it: without the folders of the machine where it lay."""
    if source is None:
        return None
    path = Path(source.removeprefix("local-dir:"))
    return path.name if path.exists() else source


def tokenizer() -> Tokenizer:
    """CLIP's byte-pair encoding, of lower-cased text, as open_clip ships it.

    Of what open_clip cleans up first (with ftfy and html), only white space, quotation marks and canonical composition
    are dealt with here.
    """
    simple = _open_clip().SimpleTokenizer()
    made = Tokenizer(BPE(simple.encoder, list(simple.bpe_ranks), end_of_word_suffix="</w>"))
    made.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(Regex("[\u02bc\u2018-\u201b]"), "'"),
            normalizers.Replace(Regex("[\u201c-\u201f]"), '"'),
            normalizers.Lowercase(),
        ]
    )
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    first, last = "<start_of_text>", "<end_of_text>"
    made.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(first, simple.sot_token_id), (last, simple.eot_token_id)]
    )
    return made


def _open_clip() -> Any:
    try:
        import open_clip
    except ModuleNotFoundError as error:
        raise WeightsError(f"{error.name} is not installed: pip install open-clip-torch") from error
    return open_clip


def _network(open_clip: Any, model: str, weights: str | None) -> dict[str, Any]:
    """The model's configuration, if it is one that :class:`ClipTowers` computes."""
    with _told(model, weights):
        network = open_clip.get_model_config(model)
    if network is None:
        raise WeightsError(f"open_clip has no model {model!r}; open_clip.list_models() lists what it has")
    text = network["text_cfg"]
    if "multimodal_cfg" in network:
        raise WeightsError(
            f"{model} writes captions as well (CoCa); only joint encoders of images and texts serve here"
        )
    foreign = text.get("hf_model_name") or text.get("hf_tokenizer_name") or text.get("tokenizer_kwargs")
    if foreign or text.get("vocab_size", _WORDS) != _WORDS:
        raise WeightsError(
            f"{model} reads text with {foreign or 'another vocabulary'}; only models with CLIP's tokenizer serve here"
        )
    if ":" in model and weights is not None:
        raise WeightsError(f"{model} brings its own weights: leave {weights} out")
    if ":" not in model and weights is None:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise WeightsError(f"{model} needs weights: a file, or a tag that open_clip downloads (it has {tags})")
    trained = open_clip.get_pretrained_cfg(model, weights) if weights else {}
    if trained and trained.get("quick_gelu", False) != network.get("quick_gelu", False):
        other = model.removesuffix("-quickgelu") if network.get("quick_gelu") else f"{model}-quickgelu"
        raise WeightsError(f"the weights {weights} are of {other}, which has another activation than {model}")
    if "timm_model_name" in network["vision_cfg"]:  # an artifact must be built again without a download
        network["vision_cfg"]["timm_model_pretrained"] = False
    return dict(network)


@contextmanager
def _told(model: str, weights: str | None) -> Iterator[None]:
    """open_clip logs its errors and raises them, of many kinds: once is enough."""
    logging.disable(logging.ERROR)
    try:
        yield
    except Exception as error:
        what = f"{model} with {weights}" if weights else model
        here = model.startswith("local-dir:") or (weights is not None and Path(weights).is_file())
        hint = "" if here else ". Without a network, give a weights file"
        raise WeightsError(f"open_clip could not load {what}: {shorten(str(error), 300)}{hint}") from error
    finally:
        logging.disable(logging.NOTSET)


@torch.inference_mode()
def _check_same(towers: ClipTowers, source: Any, model: str) -> None:
    """open_clip has more kinds of network than it has names for: compare the towers with what it computes itself."""
    rng = np.random.default_rng(0)
    size = towers.config.image.size
    pixels = torch.from_numpy(rng.integers(0, 256, (2, size, size, 3), np.uint8))
    length = towers.config.text.max_length
    ids = torch.zeros(2, length, dtype=torch.int64)
    ids[:, :4] = torch.tensor([[49406, 320, 1929, 49407], [49406, 320, 2368, 49407]])  # a dog, a cat

    def lowest(ours: Tensor, theirs: Tensor) -> float:
        return float((ours * F.normalize(theirs, dim=-1)).sum(dim=1).min())

    image = lowest(
        towers.image.see(towers.image.normalise(pixels))[1], source.encode_image(towers.image.normalise(pixels))
    )
    text = lowest(towers.text.read(ids[:, :4], (ids[:, :4] > 0).long())[1], source.encode_text(ids))
    if not min(image, text) > _MIN_COSINE:
        raise WeightsError(
            f"{model} is not a network that serves here: its vectors would not be open_clip's (cosine {image:.4f} of "
            f"images, {text:.4f} of texts)"
        )
