"""Running an experiment: features of the data set, then its cells, as Ray tasks whose results are files.

What is there is not computed again, so an interrupted experiment goes on where it was; a cell that cannot be fitted is a
result with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from differnet_ray.archives.manifest import Listing
from differnet_ray.config import Recipe
from differnet_ray.distributed.resources import cluster_size, own_errors
from differnet_ray.errors import FitError
from differnet_ray.experiments.cells import FLOW, Cell, CellResult
from differnet_ray.experiments.features import FeatureStore, Part, images_of
from differnet_ray.experiments.run_cell import run_cell
from differnet_ray.pipeline.stages import best_device
from differnet_ray.storage.files import exists, read_bytes, write_bytes
from differnet_ray.storage.locations import join
from differnet_ray.store.stored_model import Arrays

Show = Callable[[int, int], None]


@dataclass(frozen=True)
class ReproduceJob:
    """An experiment, as values.

    Attributes:
        output: canonical URI below which features and cells lie.
        listing: of the labelled data set.
        parts: features that the cells need.
    """

    output: str
    listing: Listing = field(repr=False)
    recipe: Recipe
    store: FeatureStore
    weights: Arrays = field(repr=False)
    parts: Sequence[Part]
    cells: Sequence[Cell]


def run_experiment(job: ReproduceJob, on_parts: Show, on_cells: Show) -> list[CellResult]:
    """Computes what is missing of the job.

    Args:
        job: the experiment.
        on_parts: told of finished parts of all.
        on_cells: told of finished cells of all.

    Returns:
        The results, in the order of the cells.

    Raises:
        StorageError: an image cannot be fetched, or a result not be written.
    """
    weights, listing = ray.put(job.weights), ray.put(job.listing)
    rows = {split: {c: images_of(job.listing, c, split) for c in job.listing.categories} for split in ("train", "test")}
    missing = [part for part in job.parts if not job.store.has(part)]
    _drain(
        (
            _task(_extract).remote(job.store, part, rows[part.split][part.category][part.start : part.stop], weights)
            for part in missing
        ),
        len(job.parts) - len(missing),
        len(job.parts),
        on_parts,
    )
    files = [join(job.output, cell.file(job.recipe, job.store.name)) for cell in job.cells]
    wanted = [(cell, file) for cell, file in zip(job.cells, files, strict=True) if not exists(file)]
    _drain(
        (
            _task(_run_cell, on_gpu=cell.method == FLOW, memory=_memory(cell, job.recipe, rows)).remote(
                cell, job.recipe, job.store, listing, file
            )
            for cell, file in wanted
        ),
        len(files) - len(wanted),
        len(files),
        on_cells,
    )
    return [CellResult.from_json(read_bytes(file)) for file in files]


def _task(function: Callable[..., None], *, on_gpu: bool = True, memory: float = 0.0) -> Any:
    """The function as a Ray task of one CPU, a GPU where there are some, and memory, at most what a cluster has."""
    available = ray.cluster_resources()
    return ray.remote(
        num_cpus=1, num_gpus=1 if on_gpu and available.get("GPU", 0) else 0, memory=min(memory, available.get("memory", 0.0))
    )(function)


def _memory(cell: Cell, recipe: Recipe, rows: dict[str, dict[str, pa.Table]]) -> float:
    """About what a cell takes, in bytes: its features twice, and weights, gradient and Adam's two moments."""
    d = recipe.extractor.n_features
    per_train = recipe.fit.fresh_epochs * recipe.fit.transforms_per_image
    counts = {split: sum(rows[split][category].num_rows for category in cell.categories) for split in rows}
    features: int = 4 * d * (counts["train"] * per_train + counts["test"] * recipe.transforms.n_transforms)
    return 2.0 * features + (16.0 * recipe.flow.n_parameters(d) if cell.method == FLOW else 0.0)


def _drain(tasks: Iterable[Any], done: int, total: int, show: Show) -> None:
    """Waits for tasks, started two at a time per CPU so that a long list does not lie in Ray's queue."""
    cores, _ = cluster_size()
    show(done, total)
    running: list[Any] = []
    tasks = iter(tasks)
    while True:
        running += [task for _, task in zip(range(2 * cores - len(running)), tasks, strict=False)]
        if not running:
            return
        finished, running = ray.wait(running)
        with own_errors("an experiment"):
            ray.get(finished)
        done += len(finished)
        show(done, total)


def _extract(store: FeatureStore, part: Part, rows: pa.Table, weights: Arrays) -> None:
    torch.set_num_threads(1)
    store.extract(part, rows, {name: np.array(array) for name, array in weights.items()}, best_device())


def _run_cell(cell: Cell, recipe: Recipe, store: FeatureStore, listing: Listing, file: str) -> None:
    torch.set_num_threads(1)
    try:
        result = run_cell(cell, recipe, store, listing, best_device())
    except FitError as error:
        result = CellResult(cell, error=str(error))
    write_bytes(file, result.to_json())
