"""Whether thresholds keep their promise on parts that no image was fitted on: the magnetic tiles, split by tile.

    DIFFERNET_TEST_DATA=FOLDER python -m benchmarks.groups OUTPUT

Ten times a fifth of the tiles is set apart with all of its pictures, and the rest is fitted and calibrated as `fit` does it
with the preset `pooled`: images alone, by tile, and by the groups that are found without names. Features: quarter turns, T = 4,
kept in OUTPUT/quarter.npy. Pictures of a tile are no independent draws, so the intervals count tiles: those of binomial(tiles,
promised), with the share of its pictures that are flagged as the outcome of a tile; beside them those that count pictures.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

from benchmarks import tiles
from benchmarks.pooling import fitted
from benchmarks.tile_split import numbers_of, tiles_of
from differnet_ray.archives.manifest import defects
from differnet_ray.config import preset
from differnet_ray.experiments.features import Floats, images_of
from differnet_ray.experiments.published import TILES
from differnet_ray.labels import GOOD
from differnet_ray.model.calibration import Threshold, conformal_threshold
from differnet_ray.model.differnet import transformed_features
from differnet_ray.model.groups import Partition, numbered, separation, similar_groups
from differnet_ray.model.metrics import auroc
from differnet_ray.model.scoring import transform_scores
from differnet_ray.model.transforms import TransformSet
from differnet_ray.pipeline.fit_flows import plan_folds

SPLITS, TEST_SHARE, TARGETS = 10, 0.2, (0.1, 0.05, 0.01)
QUARTERS = TransformSet(tuple(math.pi / 2 * turn for turn in range(4)), (1.0,) * 4, (1.0,) * 4)


@dataclass(frozen=True)
class Outcome:
    """What a threshold does to the pictures of tiles that it has not seen.

    Attributes:
        alarms, n: flagged pictures of all.
        tiles: sum over tiles of the share of their pictures that are flagged, of so many tiles.
    """

    threshold: Threshold
    alarms: int
    n: int
    tiles: tuple[float, int]

    def interval(self, n: int) -> tuple[float, float]:
        """95 % of binomial(n, promised)."""
        low, high = stats.binom.interval(0.95, n, self.threshold.achieved_fpr)
        return float(low), float(high)

    @property
    def inside(self) -> tuple[bool, bool]:
        """Whether the alarms are in the interval, counted by pictures and by tiles."""
        counted = ((self.alarms, self.n), self.tiles)
        intervals = [(found, *self.interval(n)) for found, n in counted]
        return tuple(low <= round(found, 6) <= high for found, low, high in intervals)  # type: ignore[return-value]


def main(output: str) -> None:
    """Prints Markdown."""
    features, kinds = _features(Path(output))
    good, defective = features[kinds == GOOD], features[kinds != GOOD]
    of_train, of_test = (numbers_of(images_of(tiles.listing(), TILES, split)["uri"].to_pylist()) for split in ("train", "test"))
    numbers = np.concatenate([of_train, of_test[kinds[-len(of_test) :] == GOOD]])
    tile = numbered(tiles_of(numbers))
    found: dict[str, list[dict[float, Outcome]]] = {"none": [], "tile": [], "auto": []}
    facts: dict[str, list[tuple[float, ...]]] = {name: [] for name in found}
    for seed in range(SPLITS):
        apart = np.isin(tile, np.random.default_rng([seed, 9]).permutation(tile.max() + 1)[: round(TEST_SHARE * tile.max())])
        train, test = good[~apart], good[apart]
        ways = {"none": np.arange(len(train)), "tile": numbered(tile[~apart]), "auto": similar_groups(train[:, 0])}
        for name, groups in ways.items():
            outcomes, measured = _split(train, groups, test, tile[apart], defective, seed)
            found[name].append(outcomes)
            facts[name].append(measured)
            print(f"split {seed}, {name}", file=sys.stderr, flush=True)
    print("| groups | how many | separation | target | promised | false alarms | inside, by tiles | by pictures | AUROC |")
    print("|" + "---|" * 9)
    for name, splits in found.items():
        count, near, area = np.mean(facts[name], axis=0)
        for target in TARGETS:
            of_target = [outcomes[target] for outcomes in splits]
            rates = [outcome.alarms / outcome.n for outcome in of_target]
            promised = np.mean([outcome.threshold.achieved_fpr for outcome in of_target])
            by_pictures, by_tiles = np.sum([outcome.inside for outcome in of_target], axis=0)
            what = f"{name} | {count:.0f} | {near:.2f} | {target:.0%} | {promised:.1%}"
            rate = f"{np.mean(rates):.1%} ± {np.std(rates, ddof=1):.1%}"
            print(f"| {what} | {rate} | {by_tiles} of {SPLITS} | {by_pictures} of {SPLITS} | {area:.3f} |")
    print("\n| split | target | promised | flagged pictures | 95 % | flagged tiles | 95 % |\n|" + "---|" * 7)
    for seed, outcomes in enumerate(found["auto"]):
        for target, outcome in outcomes.items():
            (low, high), (low_tile, high_tile) = outcome.interval(outcome.n), outcome.interval(outcome.tiles[1])
            pictures = f"{outcome.alarms} of {outcome.n} | {low:.0f} to {high:.0f}"
            by_tile = f"{outcome.tiles[0]:.1f} of {outcome.tiles[1]} | {low_tile:.0f} to {high_tile:.0f}"
            print(f"| {seed} | {target:.0%} | {outcome.threshold.achieved_fpr:.1%} | {pictures} | {by_tile} |")


def _split(
    train: Floats, groups: Partition, test: Floats, tile: npt.NDArray[np.int64], defective: Floats, seed: int
) -> tuple[dict[float, Outcome], tuple[float, ...]]:
    """The outcome of each target; number of groups, separation and AUROC."""
    recipe = preset("pooled").override(seed=seed)
    folds, _ = plan_folds(groups, recipe)
    scores = np.full(len(train), np.nan)
    for fold in folds:
        flow = fitted(recipe, train[list(fold.train)])
        scores[list(fold.unseen)] = transform_scores(flow, train[list(fold.unseen)])[:, 0] if fold.unseen else 0.0
    unseen = np.isfinite(scores)
    new, bad = (transform_scores(flow, part)[:, 0] for part in (test, defective))
    outcomes = {}
    for target in TARGETS:
        threshold = conformal_threshold(scores[unseen], target, len(set(groups[unseen].tolist())))
        flagged = new >= threshold.value
        by_tile = [flagged[tile == one].mean() for one in np.unique(tile)]
        outcomes[target] = Outcome(threshold, int(flagged.sum()), len(new), (float(np.sum(by_tile)), len(by_tile)))
    near = separation(train[:, 0], [(fold.train, fold.unseen) for fold in folds if fold.unseen])
    area = auroc(np.concatenate([new, bad]), np.arange(len(new) + len(bad)) >= len(new))
    return outcomes, (float(groups.max() + 1), near, area)


def _features(output: Path) -> tuple[Floats, npt.NDArray[np.str_]]:
    """Features (N, 1, D) of all images under quarter turns, averaged, the training images first; and their kinds."""
    recipe = preset("pooled")
    rows = [images_of(tiles.listing(), TILES, split) for split in ("train", "test")]
    path = output / "quarter.npy"
    if not path.exists():
        extractor = tiles.extractor(recipe)
        images = (image for split in ("train", "test") for image in tiles.images(split, 1)[0])
        features = [transformed_features(extractor, image, QUARTERS).cpu() for image in images]
        output.mkdir(parents=True, exist_ok=True)
        np.save(path, torch.stack(features).numpy())
    mean: Floats = np.load(path).mean(axis=1, keepdims=True)
    return mean, np.concatenate([np.array(defects(part)) for part in rows])


if __name__ == "__main__":
    main(sys.argv[1])
