"""The extractor: torchvision's AlexNet layer by layer, and weights that load from every source or say why not."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import alexnet

from differnet_ray.config import ExtractorConfig
from differnet_ray.errors import WeightsError
from differnet_ray.model.extractor import WEIGHTS_VARIABLE, Extractor, load_backbone_weights, weights_digest

THREE_SCALES = ExtractorConfig(image_size=256, n_scales=3)
CACHED = "hub/checkpoints/alexnet-owt-7be5be79.pth"  # where torchvision keeps its download, below TORCH_HOME


@pytest.fixture(autouse=True)
def no_weights_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)


@pytest.fixture
def torchvision_layers(backbone: dict[str, Tensor]) -> nn.Sequential:
    """torchvision's own network with the same weights."""
    with torch.random.fork_rng():
        layers = alexnet(weights=None).features.eval()
    layers.load_state_dict(backbone)
    return layers.requires_grad_(False)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def outputs_of(layers: nn.Module, run: Callable[[], Any]) -> list[Tensor]:
    """The output of each layer of AlexNet in the order of the calls."""
    seen: list[Tensor] = []
    hooks = [layer.register_forward_hook(lambda _, __, out: seen.append(out.clone())) for layer in layers.children()]
    run()
    for hook in hooks:
        hook.remove()
    return seen


def test_every_layer_gives_what_torchvisions_alexnet_gives(
    tiny_extractor: Extractor, torchvision_layers: nn.Sequential
) -> None:
    x = noise(2, 3, 64, 64)
    expected = outputs_of(torchvision_layers, lambda: torchvision_layers(x))
    found = outputs_of(tiny_extractor.layers, lambda: tiny_extractor(x))
    assert len(found) == len(expected) == 13
    for ours, theirs in zip(found, expected, strict=True):
        assert theirs.std() > 0.1
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_features_are_pooled_over_each_scale_of_a_nearest_neighbour_pyramid(
    backbone: dict[str, Tensor], torchvision_layers: nn.Sequential
) -> None:
    x = noise(2, 3, 256, 256)
    pyramid = [nn.functional.interpolate(x, size=256 // 2**s, mode="nearest") for s in range(3)]
    expected = [nn.functional.adaptive_avg_pool2d(torchvision_layers(scaled), 1).flatten(1) for scaled in pyramid]
    found = Extractor(THREE_SCALES, backbone)(x)
    assert found.shape == (2, THREE_SCALES.n_features)
    torch.testing.assert_close(found, torch.cat(expected, dim=1), rtol=1e-4, atol=1e-4)


def test_images_are_normalised_by_the_statistics_of_imagenet(tiny_extractor: Extractor) -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (images.numpy() - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(tiny_extractor.normalize(images).numpy(), expected, rtol=1e-5, atol=1e-5)


def test_the_extractor_is_frozen_and_in_evaluation_mode(tiny_extractor: Extractor) -> None:
    assert not any(module.training for module in tiny_extractor.modules())
    assert not any(parameter.requires_grad for parameter in tiny_extractor.parameters())
    assert not tiny_extractor(noise(1, 3, 64, 64)).requires_grad


def test_the_gradient_reaches_the_pixels_of_all_scales(backbone: dict[str, Tensor]) -> None:
    x = noise(1, 3, 256, 256).requires_grad_()
    features = Extractor(THREE_SCALES, backbone)(x)
    for scale in range(3):
        (gradient,) = torch.autograd.grad(features[:, 256 * scale : 256 * (scale + 1)].sum(), x, retain_graph=True)
        touched = gradient[0].abs().sum(dim=0) > 0
        assert touched[:: 2**scale, :: 2**scale].float().mean() > 0.9
        assert touched.sum() == touched[:: 2**scale, :: 2**scale].sum()  # scale s sees every 2^s-th pixel and no other


def test_construction_leaves_the_global_random_state_alone(backbone: dict[str, Tensor]) -> None:
    state = torch.get_rng_state()
    Extractor(THREE_SCALES, backbone)
    load_backbone_weights("random", seed=5)
    assert torch.equal(torch.get_rng_state(), state)


def changed(weights: dict[str, Tensor], **changes: Any) -> dict[str, Any]:
    """A copy in which `k8_bias` replaces the key `8.bias`, and None takes a key out."""
    changes = {key[1:].replace("_", "."): value for key, value in changes.items()}
    return {key: value for key, value in (weights | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k8_bias": None}, r"'8\.bias' is missing"),
        ({"k0_weight": torch.zeros(64, 3, 7, 7)}, r"'0\.weight' has shape \(64, 3, 7, 7\), expected \(64, 3, 11, 11\)"),
        ({"k10_bias": 3.5}, r"'10\.bias' has shape \(\), expected \(256,\)"),
        ({"k12_weight": torch.zeros(2)}, r"12\.weight"),  # unknown
    ],
)
def test_weights_that_do_not_fit_are_refused_with_their_key(
    backbone: dict[str, Tensor], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        Extractor(THREE_SCALES, changed(backbone, **changes))


def test_files_of_every_kind_give_the_same_weights(backbone: dict[str, Tensor], tmp_path: Path) -> None:
    full = {f"features.{key}": value for key, value in backbone.items()} | {"classifier.1.weight": torch.ones(3, 3)}
    torch.save(full, tmp_path / "full.pth")
    torch.save(backbone, tmp_path / "features.pt")
    save_file(full, tmp_path / "full.safetensors")
    save_file(backbone, tmp_path / "features.safetensors")
    save_file({key: value.double() for key, value in backbone.items()}, tmp_path / "double.safetensors")
    for path in tmp_path.iterdir():
        weights, name = load_backbone_weights(str(path))
        assert name == path.stem
        assert list(weights) == list(backbone)
        assert all(weights[key].dtype == torch.float32 and torch.equal(weights[key], backbone[key]) for key in backbone)


def test_the_environment_names_the_file_and_an_argument_comes_before_it(
    backbone: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(backbone, tmp_path / "mine.safetensors")
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path / "mine.safetensors"))
    weights, name = load_backbone_weights(None)
    assert name == "mine"
    assert weights_digest(weights) == weights_digest(backbone)
    assert load_backbone_weights("random", seed=3)[1] == "random-seed3"


def write_nothing(path: Path) -> None:
    path.touch()


def write_noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def write_text(path: Path) -> None:
    path.write_text("<html>404 Not Found</html>\n" * 20)


def write_half(path: Path) -> None:
    save = save_file if path.suffix == ".safetensors" else torch.save
    save({"0.weight": torch.ones(64, 3, 11, 11)}, path)
    path.write_bytes(path.read_bytes()[:2000])


def write_folder(path: Path) -> None:
    path.mkdir()


def not_written(path: Path) -> None:
    assert not path.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("write", [write_nothing, write_noise, write_text, write_half, write_folder, not_written])
def test_a_file_that_holds_no_weights_is_refused_by_name(write: Callable[[Path], None], suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    write(path)
    with pytest.raises(WeightsError) as caught:
        load_backbone_weights(str(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        [torch.ones(3)],
        torch.ones(3),
        {},
        {"state_dict": {"0.weight": torch.ones(3)}},
        {0: torch.ones(3)},
        {"0.weight": "x"},
    ],
    ids=["list", "tensor", "empty", "nested", "numbered", "text"],
)
def test_a_file_of_something_else_than_alexnet_is_refused_by_name(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(WeightsError) as caught:
        load_backbone_weights(str(tmp_path / "other.pth"))
    assert str(tmp_path / "other.pth") in str(caught.value)


def test_a_file_of_another_architecture_is_refused_by_name_and_key(backbone: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(changed(backbone, k3_weight=torch.zeros(192, 64, 3, 3)), tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"other\.safetensors: key '3\.weight' has shape \(192, 64, 3, 3\)"):
        load_backbone_weights(str(tmp_path / "other.safetensors"))


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, crater: Path) -> None:
        self.crater = crater

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.crater)!r}, 'w').close()",)


def test_code_in_a_file_is_refused_and_never_runs(tmp_path: Path) -> None:
    torch.save({"0.weight": Bomb(tmp_path / "crater")}, tmp_path / "bomb.pth")
    with pytest.raises(WeightsError) as caught:
        load_backbone_weights(str(tmp_path / "bomb.pth"))
    assert str(tmp_path / "bomb.pth") in str(caught.value)
    assert not (tmp_path / "crater").exists()


def test_code_in_torchvisions_cache_is_refused_and_never_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / CACHED).parent.mkdir(parents=True)
    torch.save({"features.0.weight": Bomb(tmp_path / "crater")}, tmp_path / CACHED)
    with pytest.raises(WeightsError):
        load_backbone_weights(None)
    assert not (tmp_path / "crater").exists()


def test_torchvisions_cache_is_used_where_nothing_is_named(
    backbone: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / CACHED).parent.mkdir(parents=True)
    torch.save({f"features.{key}": value for key, value in backbone.items()}, tmp_path / CACHED)
    weights, name = load_backbone_weights(None)
    assert name == "alexnet-imagenet1k-v1"
    assert weights_digest(weights) == weights_digest(backbone)


def test_a_download_that_fails_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as deaf:  # bound, not listening: the connection is refused at once
        deaf.bind(("127.0.0.1", 0))
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        with pytest.raises(WeightsError, match="URLError.*refused.*--backbone-weights PATH") as caught:
            load_backbone_weights(None)
    assert WEIGHTS_VARIABLE in str(caught.value)
    assert "--backbone-weights random" in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)


def test_random_weights_are_decided_by_their_seed_alone() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first, name = load_backbone_weights("random")
        torch.manual_seed(2)
        again, _ = load_backbone_weights("random", seed=0)
    other, _ = load_backbone_weights("random", seed=1)
    assert name == "random-seed0"
    assert weights_digest(first) == weights_digest(again) != weights_digest(other)


def test_random_weights_keep_the_scale_of_the_activations(tiny_extractor: Extractor) -> None:
    for out in outputs_of(tiny_extractor.layers, lambda: tiny_extractor(noise(4, 3, 64, 64))):
        assert 0.3 < out.square().mean().sqrt() < 6


def test_the_digest_depends_on_names_shapes_and_values_but_not_on_the_order(backbone: dict[str, Tensor]) -> None:
    digest = weights_digest(backbone)
    assert digest == weights_digest(dict(reversed(backbone.items())))
    assert digest == weights_digest({key: value.clone() for key, value in backbone.items()})
    assert len(digest) == 64
    one_bit = backbone["8.bias"].clone()
    one_bit[7] = 1e-30
    for other in (
        backbone | {"8.bias": one_bit},
        backbone | {"8.bias": backbone["8.bias"].view(2, -1)},
        backbone | {"8.bias": backbone["8.bias"].double()},
        changed(backbone, k8_bias=None) | {"8.beta": backbone["8.bias"]},
        backbone | {"10.bias": one_bit, "8.bias": backbone["10.bias"]},
    ):
        assert weights_digest(other) != digest


def test_the_digest_does_not_depend_on_the_memory_layout(backbone: dict[str, Tensor]) -> None:
    other = {k: v.contiguous(memory_format=torch.channels_last) if v.ndim == 4 else v for k, v in backbone.items()}
    assert weights_digest(other) == weights_digest(backbone)
    assert weights_digest(Extractor(THREE_SCALES, backbone).layers.state_dict()) == weights_digest(backbone)


REAL = Path(os.environ.get("DIFFERNET_TEST_DATA", "/nowhere")) / "weights/alexnet-imagenet1k-v1-features.safetensors"


@pytest.mark.skipif(not REAL.is_file(), reason="needs DIFFERNET_TEST_DATA with the AlexNet weights")
def test_the_pretrained_weights_load_and_are_torchvisions() -> None:
    assert hashlib.sha256(REAL.read_bytes()).hexdigest().startswith("6fdeb175b2e0b33a")
    weights, name = load_backbone_weights(str(REAL))
    assert name == "alexnet-imagenet1k-v1-features"
    features = Extractor(ExtractorConfig(), weights)(noise(1, 3, 448, 448))
    assert features.shape == (1, 768)
    assert features.min() >= 0  # means of what comes out of a ReLU
    with torch.random.fork_rng():
        layers = alexnet(weights=None).features
    layers.load_state_dict(weights)
    torch.testing.assert_close(features[:, :256], layers(noise(1, 3, 448, 448)).mean(dim=(2, 3)), rtol=1e-4, atol=1e-4)
