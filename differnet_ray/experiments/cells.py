"""What an experiment consists of: cells, each of which is one fit and the rows that are read from it.

Standard library only. Symbols as in `docs/method.md`: S scales, T transforms at scoring, K coupling blocks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass

from differnet_ray.config import Recipe
from differnet_ray.experiments.published import DIFFERNET, NEIGHBOUR, OCSVM, SHOTS_16

EXPERIMENTS = ("table1", "table2", "ablation", "shots", "multimodal")
SUBSETS = 3  # random subsets of training images per size (Fig. 7)
SMALLEST_SHOTS = 16
MULTIMODAL_BLOCKS = 12  # K
ILLUMINATION = 0.15  # half-width of brightness and contrast that the paper adds for the magnetic tiles
METHODS = {DIFFERNET: "differnet", OCSVM: "one_class_svm", NEIGHBOUR: "nearest_neighbour"}


@dataclass(frozen=True)
class Reading:
    """A row of the experiment's table: the fitted scorer with the first `n_transforms` transforms."""

    row: str
    n_transforms: int


@dataclass(frozen=True)
class Cell:
    """One fit.

    Attributes:
        categories: fitted on together, scored one by one; one category except in `multimodal`.
        method: one of `METHODS`' values.
        seed: of weights, order and subsets.
        readings: rows that are read from the fit.
        n_scales: S.
        transformed: false: fitted on, and scored on, images as they are.
        n_shots: fitted on a random subset of so many images; None: on all.
    """

    categories: tuple[str, ...]
    method: str
    seed: int
    readings: tuple[Reading, ...]
    n_scales: int
    transformed: bool = True
    n_shots: int | None = None

    def file(self, recipe: Recipe, features: str) -> str:
        """Its file below the output: named after the cell, the recipe and the features, so that a change runs it again."""
        what = json.dumps([asdict(self), asdict(recipe), features], sort_keys=True, default=str)
        return f"cells/{hashlib.sha256(what.encode()).hexdigest()[:24]}.json"


def cells_of(experiment: str, recipe: Recipe, n_images: Mapping[str, int], n_seeds: int) -> Iterator[Cell]:
    """The cells of an experiment.

    Args:
        experiment: one of `EXPERIMENTS`.
        recipe: S and T of its full rows.
        n_images: category to number of good training images.
        n_seeds: of each DifferNet row that is not about subsets.
    """
    n_scales, n_transforms = recipe.extractor.n_scales, recipe.transforms.n_transforms
    seeds = range(n_seeds)

    def full(row: str) -> tuple[Reading, ...]:
        return (Reading(row, n_transforms),)

    if experiment == "multimodal":
        for seed in seeds:
            yield Cell(tuple(n_images), "differnet", seed, full(DIFFERNET), n_scales)
        return
    for category, n in n_images.items():
        of = (category,)
        if experiment in ("table1", "table2"):
            for row in (NEIGHBOUR, OCSVM):
                yield Cell(of, METHODS[row], 0, full(row), n_scales)
            for seed in seeds:
                yield Cell(of, "differnet", seed, full(DIFFERNET), n_scales)
        if experiment == "table1":
            for seed in range(SUBSETS):
                yield Cell(of, "differnet", seed, full(SHOTS_16), n_scales, n_shots=min(SMALLEST_SHOTS, n))
        if experiment == "shots":
            size = SMALLEST_SHOTS
            while size < n:
                for seed in range(SUBSETS):
                    yield Cell(of, "differnet", seed, full(f"{size} images"), n_scales, n_shots=size)
                size *= 2
            for seed in seeds:
                yield Cell(of, "differnet", seed, full(f"{n} images"), n_scales)
        if experiment == "ablation":
            yield from _ablation(category, n_scales, n_transforms, seeds)


def _ablation(category: str, n_scales: int, n_transforms: int, seeds: Iterable[int]) -> Iterator[Cell]:
    """Table 3: without transforms an image is scored as it is; D to G are read from the same fit."""
    letters = {1: "D", 4: "E", 16: "F"}
    steps = [*(t for t in letters if t < n_transforms), n_transforms]
    readings = tuple(Reading(f"{letters.get(t, 'G')}: {n_scales} scales, T = {t}", t) for t in steps)
    of, method = (category,), "differnet"
    for seed in seeds:
        yield Cell(of, method, seed, (Reading("A: one scale, no transforms", 1),), 1, transformed=False)
        yield Cell(of, method, seed, (Reading(f"B: one scale, T = {n_transforms}", n_transforms),), 1)
        yield Cell(of, method, seed, (Reading(f"C: {n_scales} scales, no transforms", 1),), n_scales, transformed=False)
        yield Cell(of, method, seed, readings, n_scales)


def feature_kinds(experiment: str) -> list[tuple[str, str]]:
    """The features that an experiment needs: pairs of split and kind (`features.py`)."""
    kinds = [("train", "bank"), ("test", "fixed")]
    return [*kinds, ("train", "still"), ("test", "still")] if experiment == "ablation" else kinds


def recipe_of(experiment: str, recipe: Recipe) -> Recipe:
    """The recipe with what the paper changes for an experiment."""
    if experiment == "multimodal":
        return recipe.override(n_blocks=MULTIMODAL_BLOCKS)
    if experiment == "table2" and recipe.transforms.brightness == recipe.transforms.contrast == 0:
        return recipe.override(brightness=ILLUMINATION, contrast=ILLUMINATION)
    return recipe
