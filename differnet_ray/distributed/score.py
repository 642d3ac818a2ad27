"""Scoring an archive: a Ray Data plan from a manifest in Parquet to staged rows in Parquet, which are then published.

    read_parquet -> repartition -> FetchImages (tasks) -> ScoreImages (actors) -> MapGradients (actors) -> write_parquet

Rotated copies never leave the actors; a decoded image travels once, and on to the map actors only for a gradient map.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
import torch

from differnet_ray import metric_names as names
from differnet_ray.archives.fetch import FetchImages
from differnet_ray.config import ImageForm, Recipe
from differnet_ray.distributed.actor_arguments import pass_by_value
from differnet_ray.distributed.index import Index
from differnet_ray.distributed.ledger import Ledger
from differnet_ray.distributed.metrics import ScoreMetrics, loads_to, tell, timed
from differnet_ray.distributed.resources import as_tasks, beside_driver, own_errors, plan_score, watched
from differnet_ray.distributed.resume import resumable
from differnet_ray.pipeline.loaded_models import ModelCache
from differnet_ray.pipeline.stages import MapGradients, Maps, ScoreImages, best_device, check_transforms
from differnet_ray.results.publish import publish
from differnet_ray.results.runs import Run, count_statuses, stage_manifest, staged_counts, staging
from differnet_ray.storage.files import arrow_filesystem, delete
from differnet_ray.storage.lease import lease
from differnet_ray.storage.retries import n_retries
from differnet_ray.store.model_store import ModelStore
from differnet_ray.versions import library_versions

ROWS_PER_BLOCK = 16  # 16 decoded images of 448 x 448 pixels take 9.6 MB of the object store
STAGED_FILES, MAX_ROWS_PER_STAGED_FILE = 100, 1024  # a kill loses about one file's rows: a hundredth of the work
DEATHS = 2  # of an actor over a batch, until it works on one image after the other; and over one, until that is left out


@dataclass(frozen=True)
class ScoreJob:
    """A scoring run, as values.

    Attributes:
        run: its identity.
        index: the images.
        models, output: canonical URIs of the model store and of the results.
        n_transforms: score with the first so many transforms of each model; all if None.
        maps: which images get a gradient map.
        overlays: add pictures of the images with their maps over them.
        actors: least and largest number of scoring actors; None: what suits the cluster.
        batch_size: images that an actor takes at a time; changes no result.
        resume: keep the rows that a killed run of the same finished.
        replace: remove all rows of other runs from the day.
    """

    run: Run
    index: Index = field(repr=False)
    models: str
    output: str
    n_transforms: int | None = None
    maps: Maps = "flagged"
    overlays: bool = False
    actors: tuple[int, int] | None = None
    batch_size: int = ROWS_PER_BLOCK
    resume: bool = True
    replace: bool = False


@dataclass(frozen=True)
class ScoreProgress:
    """Rows done so far.

    Attributes:
        totals: category to images.
        counts: category to status to rows done.
    """

    totals: Mapping[str, int]
    counts: Mapping[str, Mapping[str, int]]

    def done(self, category: str) -> int:
        """Rows done of a category."""
        return sum(self.counts.get(category, {}).values())

    @property
    def all_done(self) -> int:
        """Rows done of all categories."""
        return sum(map(self.done, self.counts))


def models_in_use(
    models: str, categories: list[str], chosen: Mapping[str, str], n_transforms: int | None = None
) -> tuple[dict[str, tuple[str, str]], dict[str, ImageForm]]:
    """What the models of some categories are.

    Args:
        models: canonical URI of the model store.
        categories: of the archive; those without a model are left out.
        chosen: category to version, where it is not the latest.
        n_transforms: how many transforms each must have; any number if None.

    Returns:
        Category to (version, digest), and category to what its model wants of an image.

    Raises:
        ConfigError: a model has fewer transforms.
        ModelStoreError: a chosen version is not there.
    """
    store = ModelStore(models)
    known = set(store.categories()) | set(chosen)
    records = {category: store.record(category, chosen.get(category)) for category in categories if category in known}
    recipes = {category: Recipe.from_dict(record["recipe"]) for category, record in records.items()}
    for category, record in records.items():
        check_transforms(category, record["transforms"], recipes[category], n_transforms)
    return (
        {category: (record["version"], record["digest"]) for category, record in records.items()},
        {category: recipe.image_form for category, recipe in recipes.items()},
    )


def run_options(n_transforms: int | None, maps: Maps, *, overlays: bool) -> dict[str, str]:
    """The result-changing options of a run, as text."""
    return {"n_transforms": str(n_transforms or "all"), "maps": maps} | ({"overlays": "png"} if overlays else {})


def score_archive(
    job: ScoreJob, forms: Mapping[str, ImageForm], on_progress: Callable[[ScoreProgress], None]
) -> dict[str, Any]:
    """Scores every image of the job and publishes the rows; those that a killed run of the same finished are kept.

    Args:
        job: what to score.
        forms: category to what its model wants of an image.
        on_progress: shown the counts about twice a second.

    Returns:
        The content of runs/RUN_ID.json.

    Raises:
        DifferNetError: the job failed; what it finished is kept.
        ReconciliationError: an image has no row, or two.
        LeaseError: another process works on the same run.
    """
    with lease(staging(job.output, job.run) + ".lease.json"):
        if not job.resume:
            delete(staging(job.output, job.run))
        manifest = stage_manifest(job.output, job.run, job.index.write)
        ledger, finished = beside_driver(Ledger), staged_counts(job.output, job.run)
        ray.get(ledger.add.remote(finished))
        metrics = ScoreMetrics(job.index.n_images, finished)

        def look() -> ScoreProgress:
            rows, counted = ray.get([ledger.counts.remote(), ledger.counted.remote()])
            metrics.look(rows, counted)
            return ScoreProgress(job.index.counts, rows)

        with watched(look, on_progress), resumable(staging(job.output, job.run, "done")):
            _run_plan(job, forms, manifest, ledger)
        return publish(job.output, job.run, library_versions(), as_tasks, replace_day=job.replace)


def _run_plan(job: ScoreJob, forms: Mapping[str, ImageForm], manifest: str, ledger: Any) -> None:
    ray.data.DataContext.get_current().enable_progress_bars = False  # ours are on
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):  # the console; Ray's own files keep every record
            handler.setLevel(logging.ERROR)
    pass_by_value()
    plan = plan_score(job.actors)
    common: dict[str, Any] = {
        "ledger": ledger,
        "threads": plan.threads,
        "overlays": job.overlays,
        "models": job.models,
        "versions": {category: version for category, (version, _) in job.run.models.items()},
    }
    filesystem, path = arrow_filesystem(manifest)
    rows = ray.data.read_parquet(path, filesystem=filesystem)
    rows = rows.repartition(target_num_rows_per_block=job.batch_size)
    # Half a CPU: Ray would fuse a task with an actor that asks for the same resources, and fetching would wait for scoring
    rows = rows.map_batches(
        CountedFetch(forms, ledger), batch_size=job.batch_size, batch_format="pyarrow", num_cpus=0.5, zero_copy_batch=True
    )
    rows = rows.map_batches(
        ScoringActor,
        fn_constructor_kwargs={
            "n_transforms": job.n_transforms,
            "maps": job.maps,
            "dt": job.run.dt,
            "run_id": job.run.run_id,
            **common,
        },
        compute=_pool(plan.min_actors, plan.max_actors),
        batch_size=job.batch_size,
        batch_format="pyarrow",
        num_cpus=0,
        num_gpus=plan.score_gpus or None,
        zero_copy_batch=True,
    )
    rows = rows.map_batches(
        MapActor,
        fn_constructor_kwargs=common,
        compute=_pool(1, plan.max_actors),
        batch_size=job.batch_size,
        batch_format="pyarrow",
        num_cpus=0,
        num_gpus=plan.map_gpus or None,
        zero_copy_batch=True,
    )
    filesystem, path = arrow_filesystem(staging(job.output, job.run, "rows"))
    rows_per_file = max(1, min(job.index.n_images // STAGED_FILES, MAX_ROWS_PER_STAGED_FILE))
    with own_errors("the scoring job"):
        rows.write_parquet(path, filesystem=filesystem, min_rows_per_file=rows_per_file)


def _pool(least: int, most: int) -> ray.data.ActorPoolStrategy:
    return ray.data.ActorPoolStrategy(min_size=least, max_size=most, max_tasks_in_flight_per_actor=2)


class CountedFetch(FetchImages):
    """`FetchImages`, which tells the ledger what that took."""

    def __init__(self, forms: Mapping[str, ImageForm], ledger: Any) -> None:
        super().__init__(forms)
        self.ledger = ledger

    def __call__(self, rows: pa.Table) -> pa.Table:
        """As `FetchImages`."""
        before = n_retries()
        with timed(self.ledger, "fetch"):
            fetched = super().__call__(rows)
        read = pc.filter(fetched["size"], pc.is_valid(fetched["pixels"]))
        tell(self.ledger, names.BYTES_READ, pc.sum(read).as_py() or 0)
        if rows.num_rows and (again := n_retries() - before):  # rows come sorted by category
            tell(self.ledger, names.RETRIES, again, category=rows["category"][0].as_py())
        return fetched


class ScoringActor(ScoreImages):
    """`ScoreImages` with its share of the cores: images side by side, each by one thread, whatever the cluster."""

    def __init__(self, *, ledger: Any, **arguments: Any) -> None:
        torch.set_num_threads(1)
        self.ledger, device = ledger, best_device()
        cache = ModelCache(arguments["models"], device, on_load=loads_to(ledger))
        super().__init__(device=device, cache=cache, **arguments)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """As `ScoreImages`; an image that kills this process again and again is `failed`."""
        failed = {"pixels": None, "status": "failed", "error": f"the process that scored it died {DEATHS} times"}
        with timed(self.ledger, "score"):
            return _survived(self.ledger, "score", rows, super().__call__, failed)


class MapActor(MapGradients):
    """`MapGradients` with its share of the cores, which also tells the ledger what is done."""

    def __init__(self, *, ledger: Any, **arguments: Any) -> None:
        torch.set_num_threads(1)
        self.ledger = ledger
        super().__init__(device=best_device(), **arguments)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """As `MapGradients`; an image that kills this process again and again has no map."""
        with timed(self.ledger, "map"):
            done = _survived(self.ledger, "map", rows, super().__call__, {"pixels": None})
        self.ledger.add.remote(count_statuses(done))
        return done


def _survived(
    ledger: Any, stage: str, rows: pa.Table, work: Callable[[pa.Table], pa.Table], instead: Mapping[str, Any]
) -> pa.Table:
    """Works on rows: one by one where the process died of them, and with `instead` in one that it died of alone.

    Ray starts an actor that died again, with the same rows, for ever, and that is right: nodes may come and go.
    """
    if rows.num_rows == 0:
        return work(rows)
    names = rows["image_id"].to_pylist()
    batch = f"{stage} {names[0]} and {len(names) - 1} more"
    if ray.get(ledger.begin.remote(batch)) < DEATHS:
        done = work(rows)
    else:
        alone = (_alone(ledger, f"{stage} {name}", rows.slice(n, 1), work, instead) for n, name in enumerate(names))
        done = pa.concat_tables(alone)
    ledger.end.remote(batch)
    return done


def _alone(ledger: Any, name: str, row: pa.Table, work: Callable[[pa.Table], pa.Table], instead: Mapping[str, Any]) -> pa.Table:
    if ray.get(ledger.begin.remote(name)) >= DEATHS:
        for column, value in instead.items():
            field = row.schema.field(column)
            row = row.set_column(row.schema.get_field_index(column), field, pa.array([value], field.type))
    done = work(row)
    ledger.end.remote(name)
    return done
