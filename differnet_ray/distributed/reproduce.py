"""Running an experiment: features of the data set, then its cells, as Ray tasks whose results are files.

What is there is not computed again, so an interrupted experiment goes on where it was; a cell that cannot be fitted is a
row with its reason.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import ray
import torch

from differnet_ray.config import Recipe
from differnet_ray.data.manifest import Listing
from differnet_ray.data.model_store import Arrays
from differnet_ray.data.storage import exists, join, read_bytes, write_bytes
from differnet_ray.distributed.resources import cluster_size
from differnet_ray.errors import FitError
from differnet_ray.experiments.cells import Cell
from differnet_ray.experiments.features import FeatureStore, Part, images_of
from differnet_ray.experiments.run_cell import run_cell
from differnet_ray.stages import best_device

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


def run_experiment(job: ReproduceJob, on_parts: Show, on_cells: Show) -> list[dict[str, Any]]:
    """Computes what is missing of the job.

    Args:
        job: the experiment.
        on_parts: told of finished parts of all.
        on_cells: told of finished cells of all.

    Returns:
        The results of `run_cell`, in the order of the cells, each with its `cell`.
    """
    _, gpus = cluster_size()
    share: dict[str, Any] = {"num_cpus": 1, "num_gpus": 1 if gpus else 0, "max_retries": 3}
    weights, listing = ray.put(job.weights), ray.put(job.listing)
    extract, fit_cell = ray.remote(**share)(_extract), ray.remote(**share)(_run_cell)
    missing = [part for part in job.parts if not job.store.has(part)]
    rows = {split: {c: images_of(job.listing, c, split) for c in job.listing.categories} for split in ("train", "test")}
    _drain(
        (extract.remote(job.store, part, rows[part.split][part.category][part.start : part.stop], weights) for part in missing),
        len(job.parts) - len(missing),
        len(job.parts),
        on_parts,
    )
    files = [join(job.output, cell.file(job.recipe, job.store.folder)) for cell in job.cells]
    wanted = [(cell, file) for cell, file in zip(job.cells, files, strict=True) if not exists(file)]
    _drain(
        (fit_cell.remote(cell, job.recipe, job.store, listing, file) for cell, file in wanted),
        len(files) - len(wanted),
        len(files),
        on_cells,
    )
    return [json.loads(read_bytes(file)) for file in files]


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
        ray.get(finished)
        done += len(finished)
        show(done, total)


def _extract(store: FeatureStore, part: Part, rows: Any, weights: Arrays) -> None:
    torch.set_num_threads(1)
    store.extract(part, rows, {name: np.array(array) for name, array in weights.items()}, best_device())


def _run_cell(cell: Cell, recipe: Recipe, store: FeatureStore, listing: Listing, file: str) -> None:
    torch.set_num_threads(1)
    result: Mapping[str, Any]
    try:
        result = run_cell(cell, recipe, store, listing, best_device())
    except FitError as error:
        result = {"rows": [], "curve": [], "error": str(error)}
    write_bytes(file, json.dumps({"cell": asdict(cell), **result}).encode())
