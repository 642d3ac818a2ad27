"""Which gradient map shows defects best: rotations, blur and unit chosen on a part of the tiles, measured on the rest.

    DIFFERNET_TEST_DATA=FOLDER python -m benchmarks.maps OUTPUT

For two models fitted on the features in the output of `reproduce`: one that pools features over 8 transforms, and a flow of 8
blocks 256 wide, 16 epochs. Even images choose, odd ones are reported; at most 5 of each kind.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.functional import gaussian_blur

from benchmarks import tiles
from differnet_ray.archives.images import decode
from differnet_ray.archives.manifest import defects
from differnet_ray.archives.masks import mask_uris, read_mask
from differnet_ray.config import Recipe, preset
from differnet_ray.experiments.features import images_of
from differnet_ray.experiments.published import TILES
from differnet_ray.experiments.run_cell import StoredBank
from differnet_ray.labels import GOOD
from differnet_ray.model.differnet import DifferNet
from differnet_ray.model.fitting import fit
from differnet_ray.model.flow import Flow
from differnet_ray.model.gradient_map import pixel_gradient, pooled_gradient
from differnet_ray.model.pixel_metrics import aupro, pixel_auroc
from differnet_ray.model.transforms import apply_transforms, fixed_transforms, rotate_back
from differnet_ray.pipeline.stages import best_device
from differnet_ray.storage.files import read_bytes

PER_KIND, ROTATIONS, PIXELS = 5, 8, 256
SIGMAS = (1.5, 3.0, 6.0, 12.0)
Maps = npt.NDArray[np.float32]


def _each(values: Tensor) -> Tensor:
    flat = values.flatten(1)
    low, high = flat.amin(1)[:, None, None], flat.amax(1)[:, None, None]
    return (values - low) / (high - low)


UNITS: dict[str, Callable[[Tensor], Tensor]] = {
    "as it is (one unit for all images)": lambda maps: maps,
    "0 to 1 in each image (authors' code)": _each,
    "divided by its own mean": lambda maps: maps / maps.mean(dim=(1, 2), keepdim=True),
}


def main(output: str) -> None:
    """Prints Markdown."""
    parts = [list(_examples(part)) for part in (0, 1)]
    for name, net in {"pooled": _pooled(output), "flow": _flow(output)}.items():
        choosing = _study(net, parts[0])
        print(f"\n{name}, on the images that choose:\n")
        print("| sigma of the blur | rotations | unit | pixel AUROC | AUPRO |\n|---|---|---|---|---|")
        for key, (auroc, pro) in sorted(choosing.items(), key=lambda item: -item[1][1])[:10]:
            print(f"| {key[0]} | {key[1]} | {key[2]} | {auroc:.4f} | {pro:.4f} |", flush=True)
        chosen = max(choosing, key=lambda key: choosing[key][1])
        measured = _study(net, parts[1])
        print(f"\n{name}, on the others:\n\n| map | pixel AUROC | AUPRO |\n|---|---|---|")
        for key in ((3.0, ROTATIONS, next(iter(UNITS))), chosen):
            print(
                f"| sigma {key[0]}, {key[1]} rotations, {key[2]} | {measured[key][0]:.4f} | {measured[key][1]:.4f} |",
                flush=True,
            )


def _pooled(output: str) -> DifferNet:
    recipe = tiles.recipe().override(n_transforms=ROTATIONS, pooled=True)
    of = preset("pooled")
    train, _, _ = tiles.stored_features(output, tiles.stored_recipe().override(pooled=True))
    bank = StoredBank(torch.from_numpy(train[:, :ROTATIONS].mean(axis=1, keepdims=True)), of.fit)
    return _net(recipe, replace(recipe, flow=of.flow, fit=of.fit), bank)


def _flow(output: str) -> DifferNet:
    recipe = tiles.stored_recipe().override(hidden=256, first_layer="standardize", max_grad_norm=1.0, epochs=16)
    train, _, _ = tiles.stored_features(output)
    return _net(recipe, recipe, StoredBank(torch.from_numpy(train), recipe.fit))


def _net(recipe: Recipe, fitted: Recipe, bank: StoredBank) -> DifferNet:
    flow = Flow(recipe.extractor.n_features, fitted.flow, seed=0)
    list(fit(flow, bank, fitted.fit))
    pooled = recipe.transforms.pooled
    net = DifferNet(tiles.extractor(recipe), flow, fixed_transforms(recipe.transforms), pooled=pooled)
    return net.requires_grad_(False).to(best_device())


def _examples(part: int) -> Iterator[tuple[Tensor, npt.NDArray[np.bool_]]]:
    rows = images_of(tiles.listing(), TILES, "test")
    kinds = np.array(defects(rows))
    for kind in sorted(set(kinds)):
        for uri in rows.filter(pa.array(kinds == kind))["uri"].to_pylist()[part::2][:PER_KIND]:
            mask = np.zeros((PIXELS, PIXELS), np.bool_) if kind == GOOD else read_mask(mask_uris(uri), PIXELS)
            yield torch.from_numpy(decode(read_bytes(uri), size=448).pixels), mask


def _study(
    net: DifferNet, examples: list[tuple[Tensor, npt.NDArray[np.bool_]]]
) -> dict[tuple[float, int, str], tuple[float, float]]:
    transforms = net.transforms.first(ROTATIONS)
    counts = [n for n in (1, 2, 4, 8) if n <= ROTATIONS]
    maps: dict[tuple[float, int], list[Tensor]] = {(sigma, n): [] for sigma in SIGMAS for n in counts}
    for image, _ in examples:
        with torch.no_grad():
            copies = apply_transforms(image.to(net.positions.device), transforms, net.positions[: len(transforms)])
        feature_gradient = pooled_gradient(net, image) if net.pooled else None
        gradient = pixel_gradient(net, net.extractor.normalize(copies), feature_gradient)
        for sigma in SIGMAS:
            width = 2 * int(np.ceil(4 * sigma)) + 1
            turned, visible = rotate_back(gaussian_blur(gradient, [width] * 2, [sigma] * 2).abs().sum(dim=1), transforms)
            for n in counts:
                mean = turned[:n].sum(dim=0) / visible[:n].sum(dim=0).clamp_min(1)
                maps[sigma, n].append(interpolate(mean[None, None], PIXELS, mode="bilinear", antialias=True)[0, 0].cpu())
    masks = np.stack([mask for _, mask in examples])
    found = {}
    for (sigma, n), fields in maps.items():
        for name, unit in UNITS.items():
            values = unit(torch.stack(fields)).numpy()
            found[sigma, n, name] = (pixel_auroc(values, masks), aupro(values, masks))
    return found


if __name__ == "__main__":
    main(sys.argv[1])
