"""What the published split of the magnetic tiles measures: the same tile, at another exposure, stands on both sides of it.

    DIFFERNET_TEST_DATA=FOLDER python -m benchmarks.leakage OUTPUT

Each tile was photographed about six times; the pictures of one have neighbouring numbers (`exp3_num_258558.jpg`), those of
different tiles are mostly over 60 apart. The 952 good images are split five times into fitted and tested: at random, as the
published split is, and by tile. Test images are the held-out good ones and all defects. Features: as `pooling`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from benchmarks import tiles
from benchmarks.pooling import fitted, mean
from differnet_ray.config import preset
from differnet_ray.experiments.features import Floats, images_of
from differnet_ray.experiments.published import TILES
from differnet_ray.model.baselines import fit_nearest_neighbour
from differnet_ray.model.metrics import GOOD, auroc
from differnet_ray.model.scoring import transform_scores

FOLDS, GAP = 5, 60
Scores = npt.NDArray[np.float64]
Method = Callable[[Floats], Callable[[Floats], Scores]]
"""Training features (N, T, D) -> test features (M, T, D) -> scores (M,)."""


def main(output: str) -> None:
    """Prints Markdown."""
    train, test, kinds = tiles.stored_features(output, tiles.stored_recipe().override(pooled=True))
    good, defective = np.concatenate([train, test[kinds == GOOD]]), test[kinds != GOOD]
    uris = [images_of(tiles.listing(), TILES, split)["uri"].to_pylist() for split in ("train", "test")]
    tile = tiles_of(np.concatenate([numbers_of(uris[0]), numbers_of(uris[1])[kinds == GOOD]]))
    print(f"{len(good)} good images of {tile.max() + 1} tiles, {len(defective)} defects\n")
    rng = np.random.default_rng(0)
    order, tile_order = rng.permutation(len(good)), rng.permutation(tile.max() + 1)
    splits = {
        "at random": [order[i::FOLDS] for i in range(FOLDS)],
        "by tile": [np.flatnonzero(np.isin(tile, tile_order[i::FOLDS])) for i in range(FOLDS)],
    }
    methods: dict[str, Method] = {f"pooled, shrinkage {share}": _pooled(shrinkage=share) for share in (1e-4, 1e-3, 0.03, 0.1)}
    methods |= {
        "pooled, power 1": _pooled(power=1.0),
        "pooled, T = 8": _pooled(n_transforms=8),
        "pooled, T = 1": _pooled(n_transforms=1),
        "scores averaged instead of features": _single,
        "1-NN on pooled features": _nearest,
    }
    print(f"| method | {' | '.join(f'split {name}' for name in splits)} |\n|---|{'---|' * len(splits)}")
    for name, method in methods.items():
        found = [[_auroc(method, good, held_out, defective) for held_out in folds] for folds in splits.values()]
        cells = [f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" for values in found]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def numbers_of(uris: Sequence[str]) -> npt.NDArray[np.int64]:
    """The numbers that the pictures were taken under."""
    return np.array([int(re.sub(r".*_num_(\d+)\..*", r"\1", uri)) for uri in uris])


def tiles_of(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Which tile each number belongs to: a gap in the sorted numbers begins another."""
    order = np.argsort(numbers)
    tile = np.zeros(len(numbers), np.int64)
    tile[order[1:]] = np.cumsum(np.diff(numbers[order]) > GAP)
    return tile


def _auroc(method: Method, good: Floats, held_out: npt.NDArray[np.int64], defective: Floats) -> float:
    score = method(np.delete(good, held_out, axis=0))
    scores = np.concatenate([score(good[held_out]), score(defective)])
    return auroc(scores, np.arange(len(scores)) >= len(held_out))


def _pooled(*, n_transforms: int = 32, **changes: float) -> Method:
    recipe = preset("pooled").override(**changes)

    def method(train: Floats) -> Callable[[Floats], Scores]:
        flow = fitted(recipe, mean(train[:, :n_transforms]))
        return lambda test: transform_scores(flow, mean(test[:, :n_transforms]))[:, 0]

    return method


def _single(train: Floats) -> Callable[[Floats], Scores]:
    flow = fitted(preset("pooled"), np.ascontiguousarray(train[:, ::4]))
    return lambda test: transform_scores(flow, test).mean(axis=1)


def _nearest(train: Floats) -> Callable[[Floats], Scores]:
    score = fit_nearest_neighbour(mean(train)[:, 0], seed=0)
    return lambda test: score(mean(test)[:, 0])


if __name__ == "__main__":
    main(sys.argv[1])
