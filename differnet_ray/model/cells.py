"""Where the cells of feature maps lie in the image, so that maps of them can be laid over it.

Kernels, strides and paddings on the way say it: a layer whose kernel reaches over r pixels, with stride t and p pixels added in
front, has its output i at the pixel (r - 1) / 2 - p + t i of its input. So AlexNet's last convolution looks at the pixels
around 15 + 16 i. No values are computed: the network is one on the device `meta`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

Cells = tuple[float, float]
"""Along an axis of the image: the pixel that the first cell lies at, and pixels between cells."""


def cells_of(network: nn.Module, image_size: int, n_scales: int) -> tuple[Cells, ...]:
    """The cells of each feature map of each scale.

    Layers that run beside each other, such as a shortcut, look at the same place, or half a pixel of their input beside it: the
    first of a resolution decides. Where no layer of it has a kernel, the cells are evenly spread.

    Args:
        network: images to feature maps, on the device `meta`.
        image_size: H, pixels a side.
        n_scales: S: scale s sees every 2^s-th pixel.

    Raises:
        ValueError: a feature map is a single cell.
    """
    found = []
    for s in range(n_scales):
        size = image_size // 2**s
        places = {size: (0.0, 1.0)}
        for n in _sides(network, size, places):
            if n < 2:
                raise ValueError(f"{size} pixels are one cell to it; take fewer scales or larger images")
            first, step = places.get(n, (size / n / 2 - 0.5, size / n))
            found.append((2**s * first, 2**s * step))
    return tuple(found)


def _sides(network: nn.Module, size: int, places: dict[int, Cells]) -> list[int]:
    """Cells a side of each feature map; adds to `places` where those of each resolution lie."""

    def follow(layer: nn.Module, x: tuple[Tensor, ...], y: Tensor) -> None:
        before, after = x[0].shape[-1], y.shape[-1]
        if before in places and after not in places:
            (first, step), (reach, stride, padding) = places[before], _geometry(layer, before, after)
            places[after] = first + step * ((reach - 1) / 2 - padding), step * stride

    hooks = [layer.register_forward_hook(follow) for layer in network.modules() if hasattr(layer, "kernel_size")]
    try:
        return [a.shape[-1] for a in network(torch.empty(1, 3, size, size, device="meta"))]
    finally:
        for hook in hooks:
            hook.remove()


def _geometry(layer: nn.Module, before: int, after: int) -> tuple[int, int, int]:
    """Reach, stride, and pixels added in front: those that a layer tells of, or that its sizes say where it pads by itself."""
    kernel, stride, padding, dilation = (
        value[-1] if isinstance(value := getattr(layer, key, 1), tuple) else value
        for key in ("kernel_size", "stride", "padding", "dilation")
    )
    reach = dilation * (kernel - 1) + 1
    if isinstance(padding, str) or (before + 2 * padding - reach) // stride + 1 != after:
        padding = max((after - 1) * stride + reach - before, 0) // 2
    return reach, stride, padding
