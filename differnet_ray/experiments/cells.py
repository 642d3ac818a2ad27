"""What an experiment consists of: cells, each of which is one fit and the rows that are read from it.

Standard library only. Symbols as in `docs/method.md`: S scales, T transforms at scoring, K coupling blocks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field

from differnet_ray.config import AUTO, NO_GROUPS, Recipe
from differnet_ray.experiments.published import DIFFERNET, NEIGHBOUR, OCSVM, SHOTS_16

EXPERIMENTS = ("table1", "table2", "ablation", "shots", "multimodal")
SUBSETS = 3  # random subsets of training images per size (Fig. 7)
SMALLEST_SHOTS = 16
MULTIMODAL_BLOCKS = 12  # K
ILLUMINATION = 0.15  # half-width of brightness and contrast that the paper adds for the magnetic tiles
BANK = "bank"
FLOW, SVM, NEAREST = "differnet", "one_class_svm", "nearest_neighbour"


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
        method: `differnet`, `one_class_svm` or `nearest_neighbour`.
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
        what = json.dumps([asdict(self), asdict(recipe), features], sort_keys=True)
        return f"cells/{hashlib.sha256(what.encode()).hexdigest()[:24]}.json"


@dataclass(frozen=True)
class Row:
    """What was read from a fit for one category.

    Attributes:
        row: of the experiment's table.
        n_transforms: T.
        metrics: each of `metrics.IMAGE_METRICS`.
        best_epoch_auroc: the largest AUROC of the epochs that were looked at, where there were several.
        scores, kinds: of the test images; the kind `good` is without defect.
    """

    row: str
    category: str
    n_transforms: int
    metrics: dict[str, float]
    best_epoch_auroc: float | None
    scores: list[float]
    kinds: list[str]


@dataclass(frozen=True)
class CellResult:
    """A fitted cell, or why it could not be fitted.

    Attributes:
        curve: epoch, loss and AUROC (mean over categories, last reading) at epochs 1, 2, 4, ... and the last.
        n_train: images that were fitted on.
        n_unusable: images of the cell's categories that cannot be decoded.
        error: the reason of a failure.
    """

    cell: Cell
    rows: list[Row] = field(default_factory=list)
    curve: list[tuple[int, float, float]] = field(default_factory=list)
    n_train: int = 0
    n_unusable: int = 0
    seconds: float = 0.0
    error: str | None = None

    def to_json(self) -> bytes:
        """For a file."""
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def from_json(data: bytes) -> CellResult:
        """The inverse."""
        values = json.loads(data)
        cell = values.pop("cell")
        readings = tuple(Reading(**reading) for reading in cell.pop("readings"))
        return CellResult(
            cell=Cell(**cell | {"categories": tuple(cell["categories"]), "readings": readings}),
            rows=[Row(**row) for row in values.pop("rows")],
            curve=[(epoch, loss, auroc) for epoch, loss, auroc in values.pop("curve")],
            **values,
        )


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
            yield Cell(tuple(n_images), FLOW, seed, full(DIFFERNET), n_scales)
        return
    for category, n in n_images.items():
        of = (category,)
        if experiment in ("table1", "table2"):
            yield Cell(of, SVM, 0, full(OCSVM), n_scales)
            yield Cell(of, NEAREST, 0, full(NEIGHBOUR), n_scales)
            for seed in seeds:
                yield Cell(of, FLOW, seed, full(DIFFERNET), n_scales)
        if experiment == "table1":
            for seed in range(SUBSETS):
                yield Cell(of, FLOW, seed, full(SHOTS_16), n_scales, n_shots=min(SMALLEST_SHOTS, n))
        if experiment == "shots":
            size = SMALLEST_SHOTS
            while size < n:
                for seed in range(SUBSETS):
                    yield Cell(of, FLOW, seed, full(f"{size} images"), n_scales, n_shots=size)
                size *= 2
            for seed in seeds:
                yield Cell(of, FLOW, seed, full(f"{n} images"), n_scales)
        if experiment == "ablation":
            yield from _ablation(category, n_scales, n_transforms, seeds)


def _ablation(category: str, n_scales: int, n_transforms: int, seeds: Iterable[int]) -> Iterator[Cell]:
    """Table 3: without transforms an image is scored as it is; D to G are read from the same fit."""
    letters = {1: "D", 4: "E", 16: "F"}
    steps = [*(t for t in letters if t < n_transforms), n_transforms]
    readings = tuple(Reading(f"{letters.get(t, 'G')}: {n_scales} scales, T = {t}", t) for t in steps)
    of, method = (category,), FLOW
    for seed in seeds:
        yield Cell(of, method, seed, (Reading("A: one scale, no transforms", 1),), 1, transformed=False)
        yield Cell(of, method, seed, (Reading(f"B: one scale, T = {n_transforms}", n_transforms),), 1)
        yield Cell(of, method, seed, (Reading(f"C: {n_scales} scales, no transforms", 1),), n_scales, transformed=False)
        yield Cell(of, method, seed, readings, n_scales)


def feature_kinds(experiment: str, recipe: Recipe) -> list[tuple[str, str]]:
    """The features that an experiment needs: pairs of split and kind (`features.py`)."""
    kinds = [("train", train_kind(recipe, transformed=True)), ("test", "fixed")]
    return [*kinds, ("train", "still"), ("test", "still")] if experiment == "ablation" else kinds


def train_kind(recipe: Recipe, *, transformed: bool) -> str:
    """The kind of features that a fit is made on: random transforms, the fixed set where it is pooled, or none."""
    bank = f"{BANK}{recipe.fit.fresh_epochs * recipe.fit.transforms_per_image}"
    return "still" if not transformed else "fixed" if recipe.transforms.pooled else bank


def published_recipe(experiment: str, recipe: Recipe) -> Recipe:
    """A preset with what the paper changes for an experiment; options that are given come after it.

    Its subsets are of single images. All its fits share features, so that no pose is found out: it is any, as in the paper.
    """
    recipe = recipe.override(group_by=NO_GROUPS)
    if recipe.transforms.pose == AUTO:
        recipe = recipe.override(pose="any")
    if experiment == "multimodal":
        return recipe.override(n_blocks=MULTIMODAL_BLOCKS)
    if experiment == "table2":
        return recipe.override(brightness=ILLUMINATION, contrast=ILLUMINATION)
    return recipe
