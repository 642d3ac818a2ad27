"""Which map shows where the defects of the tiles are, tile by tile: activations of some layers, and the gradient of eq. 7.

    DIFFERNET_TEST_DATA=FOLDER python -m benchmarks.tile_maps OUTPUT [quarter|golden]

A pooled model of quarter turns (T = 4) or golden angles (T = 8) on four fifths of the tiles without defect. Of the other
tiles 24 images give the unit. One half of the tiles chooses, the other is reported: 24 good images and 12 of each kind of
defect each. What takes long, features and maps, is kept in OUTPUT.

Legend: h x w pixels of a map. The contour is `results.overlay.contour`, the area what is over it.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.transforms.functional import gaussian_blur

from benchmarks import tiles
from benchmarks.tile_split import numbers_of, tiles_of
from differnet_ray.archives.images import decode
from differnet_ray.archives.manifest import defects
from differnet_ray.archives.masks import mask_uris, read_mask
from differnet_ray.config import MapConfig, TransformConfig, preset
from differnet_ray.labels import GOOD
from differnet_ray.model.activation_map import activation_map, turned_back
from differnet_ray.model.differnet import DifferNet, exact_convolutions, transformed_features
from differnet_ray.model.flow import Flow, nll
from differnet_ray.model.gradient_map import gradient_map
from differnet_ray.model.pixel_metrics import aupro, pixel_auroc
from differnet_ray.model.scoring import score_features
from differnet_ray.model.transforms import TransformSet, apply_transforms, fixed_transforms
from differnet_ray.results.overlay import PEAK_SHARE
from differnet_ray.storage.files import read_bytes

GOOD_IMAGES, PER_KIND, PIXELS = 24, 12, 256
LAYERS = {"conv2": (5, 7, 8), "conv3": (8, 15, 16), "conv4": (10, 15, 16), "conv5": (12, 15, 16)}
"""Layers up to a convolution's ReLU, and where its cells lie at scale 0."""
CONFIG = MapConfig()
Maps = dict[str, Tensor]


def main(output: str, name: str = "quarter") -> None:
    """Prints Markdown."""
    folder = Path(output) / f"tile_maps-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    uris, kinds, parts = _split()
    net = _net(name, folder, uris[parts["fitted"]])
    found = {part: _maps(net, folder, uris[parts[part]], layers=part != "report") for part in ("calibrate", "choose", "report")}
    for part in ("choose", "report"):
        masks = np.stack([_mask(uri, kind) for uri, kind in zip(uris[parts[part]], kinds[parts[part]], strict=True)])
        print(f"\n{name}, {part}:\n\n| map | pixel AUROC | AUPRO | area, good | area / mask | rank |\n{'|---' * 6}|")
        for label, units, maps in _candidates(found["calibrate"], found[part]):
            print(f"| {label} | {_row(units, maps, masks, PEAK_SHARE)} |", flush=True)
        print("\n| contour at this share of the peak | area, good | area / mask | rank correlation |\n|---|---|---|---|")
        for share in (0, 1 / 16, 1 / 8, 1 / 4, 1 / 2):
            cells = _row(_of(found["calibrate"], "conv5"), _of(found[part], "conv5"), masks, share).split(" | ")
            print(f"| {share:g} | {' | '.join(cells[2:])} |")
    _times(net, torch.from_numpy(_pixels(uris[0])))


def _split() -> tuple[npt.NDArray[np.str_], npt.NDArray[np.str_], dict[str, npt.NDArray[np.int64]]]:
    rows = tiles.listing().table
    uris, kinds = np.array(rows["uri"].to_pylist()), np.array(defects(rows))
    tile, rng = tiles_of(numbers_of(uris)), np.random.default_rng(0)
    of_good = rng.permutation(np.unique(tile[kinds == GOOD]))
    unseen = of_good[::5]

    def some(kind: str, of_tiles: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.int64]:
        images = np.concatenate([np.flatnonzero((kinds == kind) & (tile == one)) for one in of_tiles])
        return np.sort(rng.permutation(images)[:n])

    parts = {"fitted": np.flatnonzero((kinds == GOOD) & ~np.isin(tile, unseen))}
    parts |= {part: some(GOOD, unseen[i::3], GOOD_IMAGES) for i, part in enumerate(("calibrate", "choose", "report"))}
    for kind in sorted(set(kinds) - {GOOD}):
        of_kind = rng.permutation(np.unique(tile[kinds == kind]))
        for i, part in enumerate(("choose", "report")):
            parts[part] = np.concatenate([parts[part], some(kind, of_kind[i::2], PER_KIND)])
    return uris, kinds, parts


def _pixels(uri: str) -> npt.NDArray[np.uint8]:
    return decode(read_bytes(uri), size=448).pixels


def _mask(uri: str, kind: str) -> npt.NDArray[np.bool_]:
    return np.zeros((PIXELS, PIXELS), np.bool_) if kind == GOOD else read_mask(mask_uris(uri), PIXELS)


def _net(name: str, folder: Path, uris: Iterable[str]) -> DifferNet:
    recipe = preset("pooled")
    extractor, of_set = tiles.extractor(recipe), fixed_transforms(TransformConfig(8))
    if name == "quarter":
        of_set = TransformSet(tuple(turn * math.pi / 2 for turn in range(4)), (1.0,) * 4, (1.0,) * 4)
    stored = folder / "features.npy"
    if not stored.exists():
        images = (torch.from_numpy(_pixels(uri)) for uri in uris)
        np.save(stored, torch.stack([transformed_features(extractor, image, of_set).mean(dim=0) for image in images]).cpu())
    flow = Flow(recipe.extractor.n_features, recipe.flow, seed=0)
    flow.fit_first_layer(torch.from_numpy(np.load(stored)))
    return DifferNet(extractor, flow, of_set, pooled=True).requires_grad_(False).to(extractor.mean.device)


def _maps(net: DifferNet, folder: Path, uris: Iterable[str], *, layers: bool) -> list[Maps]:
    """The maps of each image, from the folder where they are there."""
    found: list[Maps] = []
    for uri in uris:
        stored = folder / f"{Path(uri).stem}.pt"
        if not stored.exists():
            image = torch.from_numpy(_pixels(uri))
            eq7 = gradient_map(net, image, MapConfig(n_rotations=len(net.transforms)))
            maps = {"eq. 7": eq7, **dict(_activation_maps(net, image, layers=layers))}
            torch.save({key: value.cpu() for key, value in maps.items()}, stored)
        found.append(torch.load(stored, weights_only=True))
    return found


def _activation_maps(net: DifferNet, image: Tensor, *, layers: bool) -> Iterator[tuple[str, Tensor]]:
    chunk = net.activations(image)
    yield "conv5", activation_map(net, chunk, CONFIG)
    if not layers:
        return
    size, extractor, of_set = len(image), net.extractor, net.transforms
    layers_of = cast(nn.Sequential, extractor.layers)
    x = extractor.normalize(apply_transforms(image.to(net.positions.device), of_set, net.positions))
    with torch.enable_grad(), exact_convolutions():
        cells: dict[str, list[Tensor]] = {layer: [] for layer in LAYERS}
        for s in range(extractor.config.n_scales):
            a, first = x[..., :: 2**s, :: 2**s].contiguous(memory_format=torch.channels_last), 0
            for layer, (last, _, _) in LAYERS.items():
                a = layers_of[first:last](a)
                cells[layer].append(a if a.requires_grad else a.requires_grad_())
                first, a = last, cells[layer][-1]
        loss = len(x) * nll(*net.latent(extractor.pool(cells["conv5"]))).mean()
        gradients = iter(torch.autograd.grad(loss, [a for of_layer in cells.values() for a in of_layer]))
    for layer, (_, first, step) in LAYERS.items():
        pairs = [(a.detach(), next(gradients)) for a in cells[layer]]
        found = [(a * g).sum(dim=1) * a[0, 0].numel() for a, g in pairs]
        side, where = size // CONFIG.downsample, [(2**s * first, 2**s * step) for s in range(len(found))]
        mean = [turned_back(found[:n], of_set, size, side, where[:n]) for n in (len(found), 1, 2)]
        if layer != "conv5":
            yield layer, mean[0][0] / mean[0][1].clamp_min(1)
            continue
        for n, (total, shown) in enumerate(mean[1:], 1):
            yield f"conv5, {n} of 3 scales", total / shown.clamp_min(1)
        for n in (1, 2):
            few = [a[:n] for a in found]
            total, shown = turned_back(few, of_set.first(n), size, side, where)
            yield f"conv5, {n} of {len(of_set)} transforms", total / shown.clamp_min(1)
        even = [(a * g.mean(dim=(2, 3), keepdim=True)).sum(dim=1) * a[0, 0].numel() for a, g in pairs]
        total, shown = turned_back(even, of_set, size, side, where)
        yield "conv5, gradient averaged over cells (Grad-CAM)", total / shown.clamp_min(1)


def _candidates(calibrate: Sequence[Maps], images: Sequence[Maps]) -> Iterator[tuple[str, Tensor, Tensor]]:
    for key in images[0]:
        yield key, _of(calibrate, key), _of(images, key)
    for sigma in (8, 16):
        width = [2 * math.ceil(3 * sigma / CONFIG.downsample) + 1] * 2
        blurred = (gaussian_blur(_of(part, "conv5"), width, [sigma / CONFIG.downsample] * 2) for part in (calibrate, images))
        yield f"conv5, blurred by {sigma} pixels", *blurred


def _of(images: Sequence[Mapping[str, Tensor]], key: str) -> Tensor:
    return torch.stack([maps[key] for maps in images])


def _row(good: Tensor, maps: Tensor, masks: npt.NDArray[np.bool_], share: float) -> str:
    """Metrics of maps as they are stored, in the unit of unseen good images."""
    stored = (maps / float(np.quantile(good.numpy(), 0.99))).clamp_min(0)
    large = interpolate(stored[:, None], PIXELS, mode="bilinear", antialias=True)[:, 0].numpy()
    contours = (share * stored.amax(dim=(1, 2))).clamp_min(1)
    area, size = (stored > contours[:, None, None]).float().mean(dim=(1, 2)).numpy(), masks.mean(axis=(1, 2))
    bad = size > 0
    ratio, rank = np.median(area[bad] / size[bad]), spearmanr(area[bad], size[bad]).statistic
    quality = f"{pixel_auroc(large, masks):.3f} | {aupro(large, masks):.3f}"
    return f"{quality} | {area[:GOOD_IMAGES].mean():.3f} | {ratio:.1f} | {rank:.2f}"


def _times(net: DifferNet, image: Tensor) -> None:
    """Processor time, since other work may be beside it."""
    seconds: dict[str, list[float]] = {"score": [], "activation map": [], "gradient map": []}
    for _ in range(5):
        began = [time.process_time()]
        activations = net.activations(image)
        score_features(net, net.features_of(activations))
        began.append(time.process_time())
        activation_map(net, activations, CONFIG)
        began.append(time.process_time())
        gradient_map(net, image, MapConfig(n_rotations=len(net.transforms)))
        began.append(time.process_time())
        for key, took in zip(seconds, np.diff(began), strict=True):
            seconds[key].append(float(took))
    of_score = float(np.median(seconds["score"]))
    print("\n| what | seconds of a core | share of the score |\n|---|---|---|")
    for key, spent in seconds.items():
        print(f"| {key} | {np.median(spent):.3f} | {np.median(spent) / of_score:.2f} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
