"""The feature extractor f_ex: the convolutional part of AlexNet, frozen, applied at S scales (section 3).

Legend: B transformed images, S scales, D = 256 S features, H x W pixels.

Weights come from a file (`safetensors` or `.pth`, the full torchvision model or its features only), from torchvision's
own cache or download, or, only when asked for by the name `random`, from a seeded generator.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import AlexNet_Weights, alexnet

from differnet_ray.config import ExtractorConfig
from differnet_ray.errors import WeightsError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RANDOM = "random"
CHUNK = 16  # transformed copies per pass: 38 MB of input at 448 pixels
WEIGHTS_VARIABLE = "DIFFERNET_BACKBONE_WEIGHTS"


class Extractor(nn.Module):
    """f_ex of the paper: (B, 3, H, W) images in [0, 1] to (B, D) features.

    Args:
        config: image size and scales.
        weights: state of `torchvision.models.alexnet().features` with keys `0.weight`, `0.bias`, ...

    Attributes:
        chunk: transformed copies that go through it at a time.

    Raises:
        WeightsError: a key is missing or unknown, or has the wrong shape.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ExtractorConfig, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.config = config
        self.chunk = CHUNK
        with torch.device("meta"):  # no memory and no global random state for weights that are replaced at once
            self.layers = alexnet(weights=None).features
        _check_shapes(weights, self.layers.state_dict())
        self.layers.load_state_dict(dict(weights), assign=True)
        self.layers.to(memory_format=torch.channels_last)
        self.requires_grad_(False).eval()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def normalize(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to ImageNet's zero mean and unit deviation: the x that eq. 7 differentiates by."""
        return (images - self.mean) / self.std

    def forward(self, x: Tensor) -> Tensor:
        """Features of normalized images: (B, 3, H, W) to float32 (B, D)."""
        return self.pool(self.activations(x))

    def activations(self, x: Tensor) -> list[Tensor]:
        """The last convolution of normalized images, after its ReLU and before its pooling, at each scale.

        Scale s is every 2^s-th pixel of x, which is what nearest-neighbour downscaling by 2^s does.

        Args:
            x: float32 (B, 3, H, W), normalized.

        Returns:
            S arrays, float32 (B, 256, n_s, n_s), scale 0 first: n_s is 27, 13 and 6 for 448 pixels.
        """
        last = len(self.layers) - 1
        scaled = (x[..., :: 2**s, :: 2**s].contiguous(memory_format=torch.channels_last) for s in range(self.config.n_scales))
        return [self.layers[:last](of_scale) for of_scale in scaled]

    def pool(self, activations: Sequence[Tensor]) -> Tensor:
        """Features of activations: float32 (B, D), per scale 256 globally average-pooled maxima, scale 0 first."""
        return torch.cat([self.layers[-1](a).mean(dim=(2, 3)) for a in activations], dim=1)


def load_backbone_weights(source: str | None, *, seed: int = 0) -> tuple[dict[str, Tensor], str]:
    """The weights of AlexNet's convolutional part.

    Args:
        source: a path (`.safetensors`, `.pth` or `.pt`), the word `random`, or None for the file that
            `DIFFERNET_BACKBONE_WEIGHTS` names or else torchvision's pretrained weights.
        seed: of the random weights, where they are asked for.

    Returns:
        The state with keys `0.weight`, `0.bias`, ... and the name of its source for the model's record:
        `random-seed0`, `alexnet-imagenet1k-v1` or the file's name.

    Raises:
        WeightsError: the weights cannot be had, or do not fit AlexNet.
    """
    source = source or os.environ.get(WEIGHTS_VARIABLE) or None
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
    path = Path(source)
    if not path.is_file():
        raise WeightsError(f"backbone weights {source!r}: no such file; expected a .safetensors or .pth of AlexNet")
    return _features_only(_read(path), source), path.stem


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and values: equal for equal weights, whatever file they came from."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = weights[name].detach().cpu().contiguous().numpy()
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _read(path: Path) -> dict[str, Tensor]:
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
        _check_shapes(kept, expected)
    except WeightsError as error:
        raise WeightsError(f"backbone weights {source}: {error}") from error
    return {key: kept[key].float() for key in expected}


def _check_shapes(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    for key in found:
        if key not in expected:
            raise WeightsError(f"key {key!r} is unknown: expected AlexNet's {len(expected)} convolutional tensors")
    for key, value in expected.items():
        if key not in found:
            raise WeightsError(f"key {key!r} is missing: expected AlexNet's {len(expected)} convolutional tensors")
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
