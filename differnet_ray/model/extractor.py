"""The feature extractor f_ex: a frozen network, the paper's AlexNet or one of timm's, applied at S scales (section 3).

Legend: B transformed images, S scales, L layers of a network, C channels, D features, H x W pixels.

Weights come from a file (`safetensors` or `.pth`, the whole network or its layers only), from what torchvision or timm
keep of their own (AlexNet's are downloaded where there are none), or, only when asked for by the name `random`, from a seeded
generator.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import AlexNet_Weights, alexnet

from differnet_ray.config import ALEXNET, IMAGENET_MEAN, IMAGENET_STD, ExtractorConfig
from differnet_ray.errors import WeightsError
from differnet_ray.model.cells import Cells, cells_of
from differnet_ray.model.network import AlexNet, Network

RANDOM = "random"
CHUNK = 16  # transformed copies per pass: 38 MB of input at 448 pixels
WEIGHTS_VARIABLE = "DIFFERNET_BACKBONE_WEIGHTS"


class Extractor(nn.Module):
    """f_ex of the paper: (B, 3, H, W) images in [0, 1] to (B, D) features.

    Args:
        config: image size, scales and network.
        weights: the state of the network's layers, such as that of `torchvision.models.alexnet().features`.

    Attributes:
        chunk: transformed copies that go through it at a time.
        cells: where those of each of the S L feature maps lie, in pixels of the image.

    Raises:
        WeightsError: a key is missing or unknown, or has the wrong shape; or the network is not what the config says.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ExtractorConfig, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.config = config
        self.chunk = CHUNK
        self.network = _network(config)
        _check_shapes(weights, self.layers.state_dict(), config.network)
        self.layers.load_state_dict(dict(weights), assign=True)
        self.cells = _cells(self.network, config)
        self.layers.to(memory_format=torch.channels_last)
        self.requires_grad_(False).eval()
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(3, 1, 1), persistent=False)

    @property
    def layers(self) -> nn.Module:
        """The part of the network that has the weights."""
        return self.network.layers

    def normalize(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to the network's zero mean and unit deviation: the x that eq. 7 differentiates by."""
        return (images - self.mean) / self.std

    def forward(self, x: Tensor) -> Tensor:
        """Features of normalized images: (B, 3, H, W) to float32 (B, D)."""
        return self.pool(self.activations(x))

    def activations(self, x: Tensor) -> list[Tensor]:
        """The feature maps of normalized images at each scale.

        Scale s is every 2^s-th pixel of x, which is what nearest-neighbour downscaling by 2^s does.

        Args:
            x: float32 (B, 3, H, W), normalized.

        Returns:
            S L arrays, float32 (B, C, n, n), scale 0 first, and of a scale the finest first.
        """
        scaled = (x[..., :: 2**s, :: 2**s].contiguous(memory_format=torch.channels_last) for s in range(self.config.n_scales))
        return [a for of_scale in scaled for a in self.network(of_scale)]

    def pool(self, activations: Sequence[Tensor]) -> Tensor:
        """Features of activations: float32 (B, D), map by map."""
        return torch.cat([self.network.pool(a) for a in activations], dim=1)


def with_network(config: ExtractorConfig, network: str, layers: Sequence[int] = ()) -> ExtractorConfig:
    """A config with another network, and all that belongs to it.

    Args:
        config: image size and scales.
        network: `alexnet` or `timm:NAME`.
        layers: of a network of timm's, -1 the last; none: a few last ones.

    Raises:
        ConfigError: there is no such network, or it has no such layers, or does not take images of this size.
    """
    if network == ALEXNET:
        return replace(config, network=ALEXNET, layers=tuple(layers), channels=(256,), mean=IMAGENET_MEAN, std=IMAGENET_STD)
    from differnet_ray.model.timm_network import TimmNetwork

    found = TimmNetwork(network, layers)
    changed = replace(config, network=network, layers=found.indices, channels=found.channels, mean=found.mean, std=found.std)
    _cells(found, changed)
    return changed


def load_backbone_weights(
    source: str | None, config: ExtractorConfig | None = None, *, seed: int = 0
) -> tuple[dict[str, Tensor], str]:
    """The weights of a network's layers.

    Args:
        source: a path (`.safetensors`, `.pth` or `.pt`), the word `random`, or None for the file that
            `DIFFERNET_BACKBONE_WEIGHTS` names or else pretrained ones of torchvision or timm.
        config: names the network; AlexNet if None.
        seed: of the random weights, where they are asked for.

    Returns:
        The state, of AlexNet with keys `0.weight`, `0.bias`, ..., and the name of its source for the model's record:
        `random-seed0`, `alexnet-imagenet1k-v1`, the file's name, or of timm `NAME-` and the file's name.

    Raises:
        WeightsError: the weights cannot be had, or do not fit the network.
    """
    source = source or os.environ.get(WEIGHTS_VARIABLE) or None
    if config is not None and config.network != ALEXNET:
        return _timm_weights(source, config, seed)
    if source == RANDOM:
        return _random_weights(seed), f"{RANDOM}-seed{seed}"
    if source is None:
        try:
            with redirect_stdout(sys.stderr):  # torch says there where it downloads from
                state = AlexNet_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True, weights_only=True)
        except Exception as error:  # urllib, socket, hash and file errors: all mean that the weights are not to be had
            raise WeightsError(
                f"torchvision could not load its pretrained AlexNet weights ({type(error).__name__}: {error}). Give a "
                f"local file with --backbone-weights PATH or {WEIGHTS_VARIABLE}=PATH (safetensors or .pth, full model "
                "or features only), or ask for untrained ones with --backbone-weights random"
            ) from error
        return _features_only(state, "torchvision's AlexNet"), "alexnet-imagenet1k-v1"
    return _features_only(_read(Path(source)), source), Path(source).stem


def weights_digest(weights: Mapping[str, Tensor], network: str = ALEXNET) -> str:
    """SHA-256 over names, shapes and values, and a network's name: equal for equal ones, whatever file they came from."""
    digest = hashlib.sha256(b"" if network == ALEXNET else network.encode())  # AlexNet's is older than other networks
    for name in sorted(weights):
        array = weights[name].detach().cpu().contiguous().numpy()
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _network(config: ExtractorConfig) -> Network:
    if config.network == ALEXNET:
        return AlexNet()
    from differnet_ray.model.timm_network import TimmNetwork  # a second to import, which AlexNet need not wait for

    found = TimmNetwork(config.network, config.layers)
    if found.channels != config.channels:
        raise WeightsError(f"backbone {config.network}: its layers have {found.channels} channels, expected {config.channels}")
    return found


def _cells(network: Network, config: ExtractorConfig) -> tuple[Cells, ...]:
    try:
        return cells_of(deepcopy(network).to("meta"), config.image_size, config.n_scales)
    except (RuntimeError, AssertionError, ValueError, NotImplementedError) as error:
        why = " ".join(str(error).split())[:200]
        sizes = ", ".join(str(config.image_size // 2**s) for s in range(config.n_scales))
        raise WeightsError(f"backbone {config.network}: it does not take images of {sizes} pixels ({why})") from error


def _timm_weights(source: str | None, config: ExtractorConfig, seed: int) -> tuple[dict[str, Tensor], str]:
    from differnet_ray.model.timm_network import TimmNetwork, cached_weights, known_name, of_network

    network, name = TimmNetwork(config.network, config.layers, seed), known_name(config.network)
    if source == RANDOM:
        return dict(network.layers.state_dict()), f"{RANDOM}-seed{seed}-{name}"
    path = cached_weights(config.network) if source is None else Path(source)
    try:
        weights = of_network(network, config.network, _read(path))
    except WeightsError as error:
        raise WeightsError(f"backbone weights {path}: {error}") from error
    return weights, re.sub(r"[^\w.-]+", "-", f"{name}-{path.stem}")  # a file is named after it


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(f"backbone weights {str(path)!r}: no such file; expected a .safetensors or .pth of the network")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, ImportError, KeyError) as error:
        raise WeightsError(f"backbone weights {path}: not readable as weights ({type(error).__name__})") from error
    except Exception as error:
        # torch raises pickle.UnpicklingError for files that hold more than tensors; importing pickle just to name it
        # would be the only use of pickle in this package.
        raise WeightsError(f"backbone weights {path}: holds more than tensors, refused ({type(error).__name__})") from error
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise WeightsError(f"backbone weights {path}: expected a dict of tensors by name, found {type(state).__name__}")
    return state


def _features_only(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    prefix = "features."
    kept = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    kept = kept or dict(state)
    with torch.device("meta"):
        expected = alexnet(weights=None).features.state_dict()
    try:
        _check_shapes(kept, expected, ALEXNET)
    except WeightsError as error:
        raise WeightsError(f"backbone weights {source}: {error}") from error
    return {key: kept[key].float() for key in expected}


def _check_shapes(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], network: str) -> None:
    what = f"AlexNet's {len(expected)} convolutional tensors" if network == ALEXNET else f"{len(expected)} of {network}"
    for key in found:
        if key not in expected:
            raise WeightsError(f"key {key!r} is unknown: expected {what}")
    for key, value in expected.items():
        if key not in found:
            raise WeightsError(f"key {key!r} is missing: expected {what}")
        if not isinstance(found[key], Tensor) or found[key].shape != value.shape:
            shape = tuple(getattr(found[key], "shape", ()))
            raise WeightsError(f"key {key!r} has shape {shape}, expected {tuple(value.shape)}")


def _random_weights(seed: int) -> dict[str, Tensor]:
    """He initialisation, which keeps the scale of the activations through the layers (He et al. 2015)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in alexnet(weights=None).features.state_dict().items()}
    weights = {key: torch.zeros(shape) for key, shape in shapes.items()}
    for key, value in weights.items():
        if key.endswith("weight"):
            nn.init.kaiming_normal_(value, nonlinearity="relu", generator=generator)
    return weights
