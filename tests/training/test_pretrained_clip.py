"""Joint encoders of open_clip's: our towers and tokenizer say what its own say, and what would differ is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from shared.artifacts import Tokenization
from shared.engines.texts import TextTokenizer
from tests.support.clip import MEAN, TEXT, VIT, opened, write_clip
from training import pretrained_clip
from training.pretrained import WeightsError

TEXTS = [
    *("a dog runs on the beach", "A DOG's ball -- isn't it? They've 2,345 of 'em!!!", "we'll I'd i'm you're 's"),
    *("naïve café ÀÉÎ", "cafe\u0301", "Straße ΑΘΗΝΑ", "狗在海滩上奔跑", "Привет МИР", "हिन्दी भाषा", "مرحبا"),
    *("🐕🏖️ fun :-)", "½ ² ٣ ₤ € …—", "the dog\u2019s \u201cball\u201d", "zero\u200bwidth", "\u00a0nbsp\u3000wide"),
    *(" tabs\tand\nlines\r\n  and   spaces ", "hello_world-foo/bar@baz.com #tag 100%", "x" * 300, "dog " * 200),
    *("one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen 17!", "?"),
]
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "transformer": (VIT, {}),
    "mean-pooled transformer": (VIT | {"pool_type": "avg", "final_ln_after_pool": True}, {}),
    "words that see ahead": (VIT, {"no_causal_mask": True}),
    "resnet": ({"image_size": 64, "layers": [1, 1, 1, 1], "width": 16}, {}),
    "timm": ({"image_size": 80, "timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": None}, {}),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    pretrained_clip.tokenizer().save(str(folder / "tokenizer.json"))
    return TextTokenizer(folder, Tokenization(max_length=24))


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_open_clips_own_tokenizer(tokenizer: TextTokenizer, text: str) -> None:
    ids, mask = tokenizer.encode([text])
    expected = open_clip.SimpleTokenizer(context_length=24)([text])[0]
    assert ids[0].tolist() == expected[: int(mask.sum())].tolist()
    assert not expected[int(mask.sum()) :].any()  # and all of them are there


def test_a_long_text_keeps_its_end_token(tokenizer: TextTokenizer) -> None:
    ids, mask = tokenizer.encode(["dog " * 200, "cat"])
    assert ids.shape == (2, 24)
    assert (ids[0, -1], mask[0].sum()) == (49407, 24)
    assert ids[1].tolist() == [49406, 2368, 49407] + [0] * 21


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_vectors_are_open_clips_own(kind: str, tokenizer: TextTokenizer, tmp_path: Path) -> None:
    model = write_clip(tmp_path / "model", KINDS[kind][0], **KINDS[kind][1])
    towers, _ = pretrained_clip.load(model, None, token_dim=8, grid=3)
    source = opened(model)
    for texts in (TEXTS, TEXTS[:1]):
        ids, mask = (torch.from_numpy(array) for array in tokenizer.encode(texts))
        vectors, tokens = towers.encode_text(ids, mask)
        expected = source.encode_text(open_clip.SimpleTokenizer(context_length=24)(texts), normalize=True)
        assert (vectors * expected).sum(dim=1).min() > 0.9999
        assert tokens.shape == (*ids.shape, 8)
    size = towers.config.image.size
    pixels = torch.randint(0, 256, (3, size, size, 3), dtype=torch.uint8)
    normal = (pixels.permute(0, 3, 1, 2) / 255 - torch.tensor(MEAN).view(3, 1, 1)) / 0.25
    vectors, tokens = towers.encode_image(pixels)
    assert (vectors * source.encode_image(normal, normalize=True)).sum(dim=1).min() > 0.9999
    assert tokens.shape == (3, towers.image.side**2, 8)
    assert towers.image.side == min(3, *towers.image.backbone.grid)
    assert float(towers.log_scale) == pytest.approx(float(source.logit_scale))


@torch.inference_mode()
def test_each_place_of_the_grid_sees_its_part_of_a_picture(tmp_path: Path) -> None:
    towers, _ = pretrained_clip.load(write_clip(tmp_path / "model"), None)
    pixels = torch.zeros(1, 3, 64, 64)
    changed = pixels.clone()
    changed[:, :, 16:32, 48:] = 3  # the patch in row 1, column 3
    difference = (towers.image.see(pixels)[0] - towers.image.see(changed)[0]).norm(dim=-1)[0]
    assert divmod(int(difference.argmax()), 4) == (1, 3)


@pytest.fixture
def named(tmp_path: Path) -> str:
    """A name by which open_clip knows a small model, as it knows ViT-B-32."""
    path = tmp_path / "tiny-clip.json"
    path.write_text(json.dumps({"embed_dim": 32, "vision_cfg": VIT, "text_cfg": TEXT}))
    open_clip.add_model_config(path)
    return path.stem


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".safetensors"])
def test_a_named_model_takes_a_weights_file(named: str, suffix: str, tmp_path: Path) -> None:
    write_clip(tmp_path / "model")
    stored = torch.load(tmp_path / "model" / "open_clip_pytorch_model.bin", weights_only=True)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(stored, path)
    else:
        torch.save({"state_dict": stored, "epoch": 3} if suffix == ".pt" else stored, path)
    towers, _ = pretrained_clip.load(named, str(path))
    assert torch.equal(towers.text.encoder.network.ln_final.weight, stored["ln_final.weight"])
    assert torch.equal(towers.image.backbone.network.proj, stored["visual.proj"])  # type: ignore[arg-type]
    assert towers.config.image.mean == pytest.approx(open_clip.OPENAI_DATASET_MEAN)
    assert pretrained_clip.named(str(path)) == f"weights{suffix}"


def test_a_damaged_weights_file_is_refused(named: str, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"no weights at all")
    with pytest.raises(WeightsError, match=r"could not load tiny-clip with .*weights\.pt"):
        pretrained_clip.load(named, str(tmp_path / "weights.pt"))


@pytest.mark.parametrize(
    ("model", "weights", "says"),
    [
        ("no-such-model", "x.pt", "open_clip has no model 'no-such-model'"),
        ("ViT-B-32", None, r"ViT-B-32 needs weights: a file, or a tag .* laion2b_s34b_b79k"),
        ("ViT-B-32", "no-such-tag", "'?no-such-tag'? .*Without a network, give a weights file"),
        ("ViT-B-32", "openai", "the weights openai are of ViT-B-32-quickgelu"),
        ("ViT-B-32-quickgelu", "laion2b_s34b_b79k", "ViT-B-32-quickgelu"),
        ("roberta-ViT-B-32", "x.pt", "reads text with roberta-base"),
        ("ViT-B-16-SigLIP", "webli", "reads text with .*only models with CLIP's tokenizer"),
        ("coca_ViT-B-32", "x.pt", "CoCa"),
        ("local-dir:/no/such/folder", None, "could not load local-dir:/no/such/folder: "),
    ],
)
def test_what_cannot_be_had_is_refused(model: str, weights: str | None, says: str) -> None:
    with pytest.raises(WeightsError, match=says):
        pretrained_clip.load(model, weights)


def test_a_folder_brings_its_own_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="brings its own weights: leave openai out"):
        pretrained_clip.load(write_clip(tmp_path / "model"), "openai")


def test_a_network_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    """Texts summed up in their last place, padding or not, as no CLIP of this kind does it."""
    with pytest.raises(WeightsError, match=r"its vectors would not be open_clip's \(cosine 1\.0000 of images, "):
        pretrained_clip.load(write_clip(tmp_path / "model", pool_type="last"), None)


def test_a_tag_without_a_network_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"could not load ViT-B-16 with \w+: .*\. Without a network, give a weights"):
        pretrained_clip.load("ViT-B-16", "laion2b_s34b_b88k")


def test_without_open_clip_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(WeightsError, match="open_clip is not installed: pip install open-clip-torch"):
        pretrained_clip.load("ViT-B-32", "openai")
