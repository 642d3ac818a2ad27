"""What pooling, power and shrinkage bring, one at a time: AUROC on the tiles and, with a random backbone, on the demo's images.

    DIFFERNET_TEST_DATA=FOLDER python -m benchmarks.pooling OUTPUT

The tiles' features come from the output of `reproduce --preset pooled`. The density is that of the preset, without coupling
blocks unless said. `held out` is the loss (eq. 4 / D) of good images in 5 folds: what can be known without a defect.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from benchmarks import tiles
from differnet_ray.archives.images import decode
from differnet_ray.archives.manifest import defects, list_images
from differnet_ray.cli.demo.archive import make_archive
from differnet_ray.config import Recipe, preset
from differnet_ray.experiments.features import Floats, images_of
from differnet_ray.experiments.run_cell import StoredBank
from differnet_ray.labels import GOOD
from differnet_ray.model.differnet import transformed_features
from differnet_ray.model.extractor import Extractor, load_backbone_weights
from differnet_ray.model.fitting import fit
from differnet_ray.model.flow import Flow, nll
from differnet_ray.model.groups import split_folds
from differnet_ray.model.metrics import auroc, recall_at_fpr
from differnet_ray.model.scoring import transform_scores
from differnet_ray.model.transforms import fixed_transforms, sampling_positions
from differnet_ray.storage.files import read_bytes

DEMO_T = 16
SHRINKAGES = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1)


def main(output: str) -> None:
    """Prints Markdown."""
    pooled = preset("pooled")
    train, test, kinds = tiles.stored_features(output, tiles.stored_recipe().override(pooled=True))
    print("| on the tiles | AUROC | recall at 0 FPR | held out |\n|---|---|---|---|")
    for n in (1, 2, 4, 8, 16, 32):
        _row(f"T = {n}", pooled, mean(train[:, :n]), mean(test[:, :n]), kinds)
    _row("T = 32, scores averaged instead of features", pooled, train[:, ::2], test, kinds)
    for power in (1.0, 0.5, 0.125):
        _row(f"power {power}", pooled.override(power=power), mean(train), mean(test), kinds)
    for shrinkage in SHRINKAGES:
        _row(f"shrinkage {shrinkage}", pooled.override(shrinkage=shrinkage), mean(train), mean(test), kinds)
    for epochs in (1, 2, 4, 16):
        blocks = pooled.override(
            n_blocks=8, hidden=256, epochs=epochs, images_per_batch=96, max_grad_norm=1.0, learning_rate=1e-4
        )
        _row(f"8 coupling blocks 256 wide, {epochs} epochs", blocks, mean(train), mean(test), kinds)
    demo = _demo()
    print(f"\n| shrinkage | {' | '.join(category for category, *_ in demo)} |\n|{'---|' * (len(demo) + 1)}")
    for shrinkage in SHRINKAGES:
        recipe = pooled.override(shrinkage=shrinkage)
        found = [auroc(_scores(recipe, of_train, of_test), of != GOOD) for _, of_train, of_test, of in demo]
        print(f"| {shrinkage} | " + " | ".join(f"{value:.3f}" for value in found) + " |", flush=True)


def mean(features: Floats) -> Floats:
    """(N, T, D) -> (N, 1, D)."""
    means: Floats = features.mean(axis=1, keepdims=True)
    return means


def fitted(recipe: Recipe, train: Floats) -> Flow:
    """A flow fitted on features (N, t, D)."""
    flow = Flow(train.shape[-1], recipe.flow, seed=0)
    list(fit(flow, StoredBank(torch.from_numpy(train), recipe.fit), recipe.fit))
    return flow


def _scores(recipe: Recipe, train: Floats, test: Floats) -> npt.NDArray[np.float64]:
    scores: npt.NDArray[np.float64] = transform_scores(fitted(recipe, train), test).mean(axis=1)
    return scores


def _row(name: str, recipe: Recipe, train: Floats, test: Floats, kinds: npt.NDArray[np.str_]) -> None:
    scores, is_anomaly = _scores(recipe, train, test), kinds != GOOD
    losses = []
    for fold in split_folds(np.arange(len(train)), 5, seed=0):
        flow = fitted(recipe, np.delete(train, fold, axis=0))
        with torch.no_grad():
            losses.append(nll(*flow(torch.from_numpy(train[fold]).flatten(0, 1))).mean().item())
    print(
        f"| {name} | {auroc(scores, is_anomaly):.4f} | {recall_at_fpr(scores, is_anomaly):.3f} | {np.mean(losses):.3g} |",
        flush=True,
    )


def _demo() -> list[tuple[str, Floats, Floats, npt.NDArray[np.str_]]]:
    recipe = preset("demo").override(n_transforms=DEMO_T, pose="any")
    extractor = Extractor(recipe.extractor, load_backbone_weights("random")[0])
    transforms = fixed_transforms(recipe.transforms)
    positions = sampling_positions(transforms.angles, recipe.extractor.image_size)
    with tempfile.TemporaryDirectory() as folder:
        make_archive(Path(folder), n_train=60, n_test_good=12, n_test_defect=6)
        listing = list_images([folder])

        def features(category: str, split: str) -> Floats:
            images = [
                decode(read_bytes(uri), size=256).pixels for uri in images_of(listing, category, split)["uri"].to_pylist()
            ]
            found = [transformed_features(extractor, torch.from_numpy(image), transforms, positions) for image in images]
            return mean(torch.stack(found).numpy())

        return [
            (c, features(c, "train"), features(c, "test"), np.array(defects(images_of(listing, c, "test"))))
            for c in listing.categories
        ]


if __name__ == "__main__":
    main(sys.argv[1])
