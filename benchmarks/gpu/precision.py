"""The extractor at other precisions and layouts, with all else as the package has it.

Legend: B transformed images, D features, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import alexnet

from differnet_ray.config import ExtractorConfig, Recipe
from differnet_ray.model.extractor import Extractor


@dataclass(frozen=True)
class Precision:
    """How convolutions are computed.

    Attributes:
        name: for the table.
        dtype: of weights and activations up to the pooling, whose sums are float32.
        tf32: whether float32 products may be rounded to TF32.
        any_algorithm: cuDNN tries all algorithms and takes the fastest, also one that is not deterministic.
        channels_last: layout of the activations.
    """

    name: str
    dtype: torch.dtype = torch.float32
    tf32: bool = False
    any_algorithm: bool = False
    channels_last: bool = True

    def convolutions(self) -> AbstractContextManager[None]:
        """The state of cuDNN; it holds for the whole process."""
        return torch.backends.cudnn.flags(
            enabled=True, benchmark=self.any_algorithm, deterministic=not self.any_algorithm, allow_tf32=self.tf32
        )


FLOAT32 = Precision("float32, as the package")
PRECISIONS = (
    FLOAT32,
    Precision("float32, any algorithm", any_algorithm=True),
    Precision("float32, any algorithm, channels first", any_algorithm=True, channels_last=False),
    Precision("tf32", tf32=True),
    Precision("tf32, any algorithm", tf32=True, any_algorithm=True),
    Precision("bfloat16", torch.bfloat16),
    Precision("bfloat16, any algorithm", torch.bfloat16, any_algorithm=True),
    Precision("float16, any algorithm", torch.float16, any_algorithm=True),
)
BY_NAME = {precision.name: precision for precision in PRECISIONS}


class PreciseExtractor(Extractor):
    """f_ex at a precision: takes and gives float32, as the package's own."""

    def __init__(self, config: ExtractorConfig, weights: Mapping[str, Tensor], precision: Precision) -> None:
        super().__init__(config, weights)
        self.precision = precision
        self.layout = torch.channels_last if precision.channels_last else torch.contiguous_format
        self.layers.to(dtype=precision.dtype, memory_format=self.layout)

    def forward(self, x: Tensor) -> Tensor:
        """Float32 (B, 3, H, W), normalized, to float32 (B, D)."""
        with self.precision.convolutions():
            return self.pooled(x)

    def pooled(self, x: Tensor) -> Tensor:
        """As `forward`, with cuDNN as it is set: what can be compiled or captured."""
        scales = []
        for s in range(self.config.n_scales):
            scaled = x[..., :: 2**s, :: 2**s].to(self.precision.dtype).contiguous(memory_format=self.layout)
            scales.append(self.layers(scaled).float().mean(dim=(2, 3)))
        return torch.cat(scales, dim=1)


def operations(recipe: Recipe) -> tuple[float, float]:
    """Floating-point operations, a product and its sum counting two, of the extractor and of the flow for one copy."""
    size = recipe.extractor.image_size
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        layers, x = alexnet(weights=None).features, torch.empty(1, 3, size, size)
        for s in range(recipe.extractor.n_scales):
            layers(x[..., :: 2**s, :: 2**s])
    return float(counter.get_total_flops()), 2.0 * recipe.flow.n_parameters(recipe.extractor.n_features)
