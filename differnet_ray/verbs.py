"""What the verbs of the command line do once their options are read: checks before any work, then the job, with progress.

Heavy modules are imported inside the functions, after the checks that do not need them, so that a mistake is said at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

import click

from differnet_ray.config import Recipe
from differnet_ray.errors import ConfigError

if TYPE_CHECKING:
    from differnet_ray.data.manifest import Listing
    from differnet_ray.data.model_store import Arrays, Backbone
    from differnet_ray.distributed.score import ScoreProgress
    from differnet_ray.fit_state import CategoryState
    from differnet_ray.stages import Maps

CATEGORIES_SHOWN = 8  # of those in work: images come sorted by category, so they are few


def run_fit(
    data: str,
    models: str,
    categories: Sequence[str],
    recipe: Recipe,
    backbone_weights: str | None,
    *,
    shots: int | None = None,
    together: str | None = None,
    max_parallel: int | None = None,
    gpus_per_fit: float | None = None,
    bank_memory: float = 1.0,
    scratch: str | None = None,
    checkpoint_seconds: float = 120.0,
    resume: bool = True,
    test: bool = True,
) -> Mapping[str, CategoryState]:
    """`fit`, checked before any work; returns the final state of each category.

    Args:
        data: a folder, an archive or a manifest.
        models: the model store.
        categories: which; all if empty.
        recipe: all settings.
        backbone_weights: as the option.
        shots: fit on so many images of each category, drawn from the seed.
        together: fit all categories in one flow, as the category of this name.
        max_parallel: fits at the same time.
        gpus_per_fit: share of a GPU of each.
        bank_memory: GiB of features that a fit holds in main memory.
        scratch: folder of the workers for feature banks; None: below the folder for temporary files.
        checkpoint_seconds: between checkpoints of a category.
        resume: skip what is fitted already, go on where a killed run was; else begin anew.
        test: measure the AUROC where there is a labelled test set.
    """
    from differnet_ray.data.fit_work import FitWork, default_scratch
    from differnet_ray.data.manifest import Listing, list_images, sample, select
    from differnet_ray.data.manifest import together as as_one
    from differnet_ray.data.model_store import ModelStore
    from differnet_ray.data.storage import canonical, check_writable

    if gpus_per_fit is not None and not (0 < gpus_per_fit <= 1 or gpus_per_fit == int(gpus_per_fit) > 0):
        raise ConfigError(f"--gpus-per-fit {gpus_per_fit}: expected a share of at most 1, or a whole number of GPUs")
    backbone, weights = _backbone(backbone_weights)
    images = list_images([data])
    good = select(images, split="train", defect="good")
    for category in categories or [data]:
        if not select(good, categories=[category] if categories else []).table.num_rows:
            raise ConfigError(f"{category}: no good images below {data}; expected some in <category>/train/good")
    listing, labelled = (select(part, categories=categories) for part in (good, select(images, split="test")))
    if shots is not None:
        listing = sample(listing, shots, recipe.fit.seed)
    if together is not None:
        listing, labelled = as_one(listing, together), as_one(labelled, together)
    check_writable(canonical(models))

    from differnet_ray.distributed.fit import finished_before, fit_categories
    from differnet_ray.distributed.resources import cluster, plan_fit
    from differnet_ray.fit_category import FitJob
    from differnet_ray.progress import Reporter
    from differnet_ray.summaries import warn_skipped

    job = FitJob(
        listing=listing,
        test=labelled if test else Listing(labelled.table.slice(0, 0)),
        data=(canonical(data),),
        models=canonical(models),
        recipe=recipe,
        backbone=backbone,
        weights=weights,
        scratch=scratch or default_scratch(),
        bank_memory=int(bank_memory * 2**30),
        checkpoint_seconds=checkpoint_seconds,
    )
    states = finished_before(job) if resume else {}
    wanted = [category for category in listing.categories if category not in states]
    if states:
        click.echo(f"fitted already, from the same images by the same recipe: {', '.join(states)}", err=True)
    if not resume:
        for category in wanted:
            FitWork(job.models, category, job.fingerprint(category), job.scratch).delete()
    if wanted:
        with cluster(), Reporter("steps") as reporter:
            plan = plan_fit(len(wanted), memory=job.memory, max_parallel=max_parallel, gpus_per_fit=gpus_per_fit)
            states |= fit_categories(job, wanted, plan, lambda states: reporter.show(_fit_tasks(states)))
    states = {category: states[category] for category in listing.categories}
    warn_skipped(states)
    for category, state in states.items():
        if state.result is not None and (in_use := ModelStore(job.models).latest(category)) != state.result.version:
            click.echo(
                f"WARNING: {category}: {in_use} is in use, not {state.result.version}: see differnet-ray models promote",
                err=True,
            )
    return states


def _fit_tasks(states: Mapping[str, CategoryState]) -> dict[str, tuple[int, int, str]]:
    from differnet_ray.fit_state import DONE, RUNNING

    finished = sum(state.status in DONE for state in states.values())
    failed = sum(state.error is not None for state in states.values())
    tasks = {"all categories": (finished, len(states), f"{failed} failed" if failed else "")}
    for category, state in states.items():
        if state.progress is not None and state.status == RUNNING:
            loss = "" if state.progress.loss is None else f"loss {state.progress.loss:.3f}"
            tasks[f"{category} {state.progress.phase}"] = (state.progress.done, state.progress.total, loss)
    return tasks


def run_score(
    images: Listing | Sequence[str],
    *,
    models: str,
    output: str,
    dt: date,
    category: str | None = None,
    path_pattern: str | None = None,
    limit: int | None = None,
    run_id: str | None = None,
    n_transforms: int | None = None,
    maps: Maps = "flagged",
    overlays: bool = False,
    versions: Mapping[str, str] | None = None,
    require_models: bool = False,
    actors: tuple[int, int] | None = None,
    resume: bool = True,
) -> dict[str, Any]:
    """`score`, checked before any work; returns the content of the run file.

    Args:
        images: locations, or a listing.
        models: the model store.
        output: the results.
        dt: day of the results.
        category: of all images of the locations; None: from manifests and paths.
        path_pattern: what their paths say.
        limit: keep the first so many of them.
        run_id: as the option.
        n_transforms: score with the first so many transforms of each model; all if None.
        maps: which images get a gradient map.
        overlays: add pictures of the images with their maps over them.
        versions: category to version, where it is not the latest.
        require_models: refuse images of a category without a model; else they are rows of the status `no_model`.
        actors: least and largest number of scoring actors.
        resume: go on where a killed run of the same was, and do nothing where one was published; else begin anew.
    """
    from differnet_ray.data.index import Naming, sources_of
    from differnet_ray.data.manifest import Listing, check_category
    from differnet_ray.data.publish import finish_publishing
    from differnet_ray.data.results import NO_CATEGORY, no_category_uri, plan_run, published
    from differnet_ray.data.storage import canonical, check_writable, join

    models, output = canonical(models), canonical(output)
    naming = Naming(category, path_pattern)
    if category is not None:
        check_category(category)
    sources = [] if isinstance(images, Listing) else sources_of(images)
    check_writable(output)

    from differnet_ray.distributed.index import index_archives, index_listing
    from differnet_ray.distributed.resources import cluster
    from differnet_ray.distributed.score import ScoreJob, models_in_use, score_archive
    from differnet_ray.progress import Reporter

    with cluster():
        if isinstance(images, Listing):
            index = index_listing(images)
        else:
            with Reporter("sources") as reporter:
                index = index_archives(
                    sources,
                    naming,
                    limit=limit,
                    cache=join(output, "_index"),
                    on_progress=lambda p: reporter.show({"index": (p.done, p.total, f"{p.n_images:,} images")}),
                )
        in_use, image_sizes = models_in_use(models, list(index.counts), versions or {}, n_transforms)
        without = [category for category in index.counts if category not in in_use]
        if without and (require_models or not in_use):
            raise ConfigError(f"{models} has no model of {', '.join(without)}: run fit first, or take those images out")
        run = plan_run(
            dt=dt,
            listing_digest=index.digest,
            models=in_use,
            options={"n_transforms": str(n_transforms or "all"), "maps": maps} | ({"overlays": "png"} if overlays else {}),
            run_id=run_id,
            skipped=index.skipped,
        )
        if sources and index.skipped:
            click.echo("not scored: " + ", ".join(f"{n} files ({why})" for why, n in index.skipped.items()), err=True)
        if NO_CATEGORY in index.skipped:
            click.echo(f"WARNING: images without a category: {no_category_uri(output, run.run_id)} names them", err=True)
        done = published(output, run)
        if done is not None and resume:
            finish_publishing(output, run.run_id)
            click.echo(f"run {run.run_id} has been published already, at {done['finished_at']}: nothing to do", err=True)
            return done
        job = ScoreJob(
            run=run,
            index=index,
            models=models,
            output=output,
            n_transforms=n_transforms,
            maps=maps,
            overlays=overlays,
            actors=actors,
            resume=resume,
        )
        with Reporter("images") as reporter:
            return score_archive(job, image_sizes, lambda progress: reporter.show(_score_tasks(progress)))


def _score_tasks(progress: ScoreProgress) -> dict[str, tuple[int, int, str]]:
    counts = sum(map(Counter, progress.counts.values()), Counter[str]())
    said = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
    tasks = {"all": (progress.all_done, sum(progress.totals.values()), said)}
    in_work = [category for category, total in progress.totals.items() if 0 < progress.done(category) < total]
    for category in in_work[:CATEGORIES_SHOWN]:
        said = ", ".join(f"{n} {status}" for status, n in sorted(progress.counts[category].items()))
        tasks[category] = (progress.done(category), progress.totals[category], said)
    return tasks


def run_reproduce(
    experiment: str,
    data: str,
    output: str,
    categories: Sequence[str],
    recipe: Recipe,
    backbone_weights: str | None,
    n_seeds: int,
) -> tuple[str, bool]:
    """`reproduce`, checked before any work.

    Returns:
        The Markdown of the experiment's table, and whether every cell could be fitted.
    """
    from differnet_ray.data.manifest import defects, list_images, select
    from differnet_ray.data.storage import canonical, check_writable
    from differnet_ray.experiments.cells import cells_of, feature_kinds
    from differnet_ray.experiments.features import FeatureStore, all_parts, images_of

    backbone, weights = _backbone(backbone_weights)
    images = list_images([data])
    _check_categories(categories, images.categories, data)
    listing = select(images, categories=categories)
    n_images = {category: images_of(listing, category, "train").num_rows for category in listing.categories}
    for category, n in n_images.items():
        kinds = set(defects(images_of(listing, category, "test")))
        if n < 2 or "good" not in kinds or len(kinds) < 2:
            raise ConfigError(
                f"category {category!r} of {data} has {n} images in train/good and {sorted(kinds)} in test; expected at "
                "least 2 good training images, and good and defective test images"
            )
    if experiment == "multimodal" and len(n_images) < 2:
        raise ConfigError(f"multimodal fits all categories in one flow: expected at least 2, found {', '.join(n_images)}")
    if experiment == "ablation" and recipe.extractor.n_scales < 2:
        raise ConfigError("ablation compares one scale with several: expected --scales of at least 2")
    output = canonical(output)
    check_writable(output)

    from differnet_ray.distributed.reproduce import ReproduceJob, run_experiment
    from differnet_ray.distributed.resources import cluster
    from differnet_ray.experiments.report import Setting, write_report
    from differnet_ray.progress import Reporter

    job = ReproduceJob(
        output=output,
        listing=listing,
        recipe=recipe,
        store=FeatureStore.at(output, recipe, backbone.digest),
        weights=weights,
        parts=list(all_parts(listing, feature_kinds(experiment, recipe))),
        cells=list(cells_of(experiment, recipe, n_images, n_seeds)),
    )
    with cluster(), Reporter("steps") as reporter:
        results = run_experiment(
            job,
            lambda done, total: reporter.show({"features": (done, total, "")}),
            lambda done, total: reporter.show({"fits": (done, total, "")}),
        )
    text = write_report(Setting(experiment, recipe, backbone, canonical(data), len(n_images)), results, output)
    click.echo(f"table, Parquet and plots: {output}", err=True)
    return text, not any(result.error for result in results)


def _check_categories(wanted: Sequence[str], found: Sequence[str], data: str) -> None:
    for category in wanted:
        if category not in found:
            raise ConfigError(f"{category}: no images below {data}; it has the categories {', '.join(found)}")


def _backbone(source: str | None) -> tuple[Backbone, Arrays]:
    """The backbone that a fit begins with; says loudly where it is untrained."""
    from differnet_ray.data.model_store import Backbone
    from differnet_ray.model.extractor import RANDOM, load_backbone_weights, weights_digest

    weights, name = load_backbone_weights(source)
    pretrained = not name.startswith(RANDOM)
    if not pretrained:
        click.echo(
            "NOTICE: the backbone has RANDOM, untrained weights. Its models are for demonstrations only; give pretrained "
            "ones with --backbone-weights PATH or DIFFERNET_BACKBONE_WEIGHTS.",
            err=True,
        )
    return Backbone(name, weights_digest(weights), pretrained), {key: tensor.numpy() for key, tensor in weights.items()}
