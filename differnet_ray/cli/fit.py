"""`differnet-ray fit`: one flow per category, fitted on its good images and published to the model store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click

from differnet_ray.cli.options import AS_JSON, CATEGORIES, CONFIG, GOOD_NAMES, MODELS, preset_option, recipe_options
from differnet_ray.config import MAP_KINDS, Recipe, preset
from differnet_ray.errors import EXIT_FAILED, ConfigError
from differnet_ray.labels import GOOD

if TYPE_CHECKING:
    from differnet_ray.pipeline.fit_state import CategoryState
    from differnet_ray.store.stored_model import Arrays, Backbone

# Options of fit that say how it works, in contrast to what the recipe is
WORKING_OPTIONS = ["shots", "together", "max_parallel", "gpus_per_fit", "bank_memory", "scratch", "checkpoint_seconds"]
WORKING_OPTIONS += ["resume", "test", "good"]
SKIPPED_SHOWN = 5


@click.command()
@CONFIG
@click.option("--data", help="Good images: a folder or archive in the layout <category>/train/good/<name>.")
@click.option("--manifest", help="Instead of --data: a CSV, JSON Lines or Parquet file that names images.")
@MODELS
@CATEGORIES
@GOOD_NAMES
@preset_option("pooled")
@recipe_options
@click.option("--target-fpr", type=float, help="Share of good images that may be called anomalous.")
@click.option("--map-kind", type=click.Choice(MAP_KINDS), help="Of maps: of activations (default), or of the gradient, eq. 7.")
@click.option("--seed", type=int, help="Of weights, transforms, order, hold-out and shots.")
@click.option("--patience", type=int, help="Stop after so many epochs in which good images not fitted on gained nothing.")
@click.option("--shots", type=click.IntRange(min=2), help="Fit on so many images of each category, drawn from the seed.")
@click.option("--together", metavar="NAME", help="Fit all categories in one flow, as the category NAME.")
@click.option("--max-parallel", type=click.IntRange(min=1), help="Fits at the same time; default: what the cluster holds.")
@click.option("--gpus-per-fit", type=click.FloatRange(min=0), help="Share of a GPU for each fit.")
@click.option("--bank-memory", type=click.FloatRange(min=0), help="GiB of features that a fit holds in memory; default: 1.")
@click.option("--scratch", metavar="FOLDER", help="Of each worker, for features; default: the one for temporary files.")
@click.option("--checkpoint-seconds", type=click.FloatRange(min=0), help="Between checkpoints of a category; default: 120.")
@click.option("--resume/--no-resume", default=True, help="Go on where the same command was killed; default, or begin anew.")
@click.option("--test/--no-test", default=True, help="Measure the AUROC where there are labelled test images; default.")
@AS_JSON
@click.pass_context
def fit(
    ctx: click.Context,
    /,
    data: str | None,
    manifest: str | None,
    models: str,
    categories: tuple[str, ...],
    preset_name: str,
    backbone: str | None,
    layers: tuple[int, ...],
    backbone_weights: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Fit one flow per category on its good images, find thresholds, publish to the model store.

    The same command skips what is fitted already and goes on where it was killed.
    """
    from differnet_ray.pipeline.fit_state import FAILED

    source = data or manifest
    if source is None or (data and manifest):
        raise ConfigError("fit needs --data or --manifest, and not both")
    how = {key: options.pop(key) for key in WORKING_OPTIONS}
    recipe = with_backbone(preset(preset_name).override(**options), backbone, layers)
    given = {key: value for key, value in how.items() if value is not None}
    states = run_fit(source, models, categories, recipe, backbone_weights, **given)
    click.echo(json.dumps(state_records(states), indent=2) if as_json else fit_table(states))
    if any(state.status == FAILED for state in states.values()):
        ctx.exit(EXIT_FAILED)


def run_fit(
    data: str,
    models: str,
    categories: Sequence[str],
    recipe: Recipe,
    backbone_weights: str | None,
    *,
    good: Sequence[str] = (),
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
        good: names of good images, beside those of `labels.GOOD_NAMES`.
        shots: fit on so many images of each category, of whole groups, drawn from the seed.
        together: fit all categories in one flow, as the category of this name.
        max_parallel: fits at the same time.
        gpus_per_fit: share of a GPU of each.
        bank_memory: GiB of features that a fit holds in main memory.
        scratch: folder of the workers for feature banks; None: below the folder for temporary files.
        checkpoint_seconds: between checkpoints of a category.
        resume: skip what is fitted already, go on where a killed run was; else begin anew.
        test: measure the AUROC where there is a labelled test set.
    """
    from differnet_ray.archives.manifest import Listing, group_keys, list_images, sample, select
    from differnet_ray.archives.manifest import together as as_one
    from differnet_ray.storage.files import check_writable
    from differnet_ray.storage.locations import canonical
    from differnet_ray.store.fit_work import FitWork, default_scratch
    from differnet_ray.store.model_store import ModelStore

    if gpus_per_fit is not None and not (0 < gpus_per_fit <= 1 or gpus_per_fit == int(gpus_per_fit) > 0):
        raise ConfigError(f"--gpus-per-fit {gpus_per_fit}: expected a share of at most 1, or a whole number of GPUs")
    backbone, weights = backbone_of(recipe, backbone_weights)
    images = list_images([data], good=good)
    training = select(images, split="train", defect=GOOD)
    for category in categories or [data]:
        if not select(training, categories=[category] if categories else []).table.num_rows:
            raise ConfigError(
                f"{category}: no good images below {data}; expected some in <category>/train/good, or ok, normal, or a name "
                "that --good NAME gives"
            )
    listing, labelled = (select(part, categories=categories) for part in (training, select(images, split="test")))
    group_by = recipe.calibration.group_by
    for category in listing.categories:  # a name that does not fit is found before any work
        group_keys(select(listing, categories=[category]).table, group_by)
    if shots is not None:
        listing = sample(listing, shots, recipe.fit.seed, group_by)
    if together is not None:
        listing, labelled = as_one(listing, together), as_one(labelled, together)
    check_writable(canonical(models))

    from differnet_ray.cli.progress import Reporter
    from differnet_ray.distributed.fit import finished_before, fit_categories
    from differnet_ray.distributed.resources import cluster, plan_fit
    from differnet_ray.pipeline.fit_category import FitJob

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
    from differnet_ray.pipeline.fit_state import DONE, RUNNING

    finished = sum(state.status in DONE for state in states.values())
    failed = sum(state.error is not None for state in states.values())
    tasks = {"all categories": (finished, len(states), f"{failed} failed" if failed else "")}
    for category, state in states.items():
        if state.progress is not None and state.status == RUNNING:
            loss = "" if state.progress.loss is None else f"loss {state.progress.loss:.3f}"
            tasks[f"{category} {state.progress.phase}"] = (state.progress.done, state.progress.total, loss)
    return tasks


def with_backbone(recipe: Recipe, network: str | None, layers: Sequence[int] = ()) -> Recipe:
    """A recipe with the network that an option names, `alexnet` or `timm:NAME`; None changes nothing."""
    from differnet_ray.model.extractor import with_network

    if network is None and not layers:
        return recipe
    return replace(recipe, extractor=with_network(recipe.extractor, network or recipe.extractor.network, layers))


def backbone_of(recipe: Recipe, source: str | None) -> tuple[Backbone, Arrays]:
    """The backbone that a fit begins with; says loudly where it is untrained."""
    from differnet_ray.model.extractor import RANDOM, load_backbone_weights, weights_digest
    from differnet_ray.store.stored_model import Backbone

    weights, name = load_backbone_weights(source, recipe.extractor)
    pretrained = not name.startswith(RANDOM)
    if not pretrained:
        click.echo(
            "NOTICE: the backbone has RANDOM, untrained weights. Its models are for demonstrations only; give pretrained "
            "ones with --backbone-weights PATH or DIFFERNET_BACKBONE_WEIGHTS.",
            err=True,
        )
    backbone = Backbone(name, weights_digest(weights, recipe.extractor.network), pretrained)
    return backbone, {key: tensor.numpy() for key, tensor in weights.items()}


def fit_table(states: Mapping[str, CategoryState]) -> str:
    """One row per category of a fitting run, and the reasons of those that failed."""
    from differnet_ray.cli.text_table import table

    headers = ["category", "fitted on", "calibrated on", "skipped", "epochs", "loss", "threshold", "AUROC", "seconds", "status"]
    rows, reasons = [], []
    for category, state in states.items():
        result = state.result
        if result is None:
            rows.append([category, *[""] * 8, state.status])
            reasons.append(f"{category}: {state.error}")
        else:
            images = [str(result.n_fitted), f"{result.n_calibrated} {result.method}", str(len(result.skipped))]
            fit = [str(result.epochs), f"{result.loss:.3f}", f"{result.threshold:.4g}"]
            auroc = "" if result.auroc is None else f"{result.auroc:.3f}"
            rows.append([category, *images, *fit, auroc, f"{result.seconds:.0f}", state.status])
    return "\n".join([table(headers, rows), *reasons])


def state_records(states: Mapping[str, CategoryState]) -> dict[str, Any]:
    """The same for programs."""
    return {
        category: {
            "status": state.status,
            "error": state.error,
            "result": asdict(state.result) if state.result else None,
        }
        for category, state in states.items()
    }


def warn_skipped(states: Mapping[str, CategoryState]) -> None:
    """Says what decided poses, which images could not be used, notes of fits, and which thresholds promise too little."""
    for category, state in states.items():
        if state.result is None:
            continue
        result, skipped = state.result, state.result.skipped
        if result.pose:
            click.echo(f"{category}: {result.pose}", err=True)
        for uri, reason in list(skipped.items())[:SKIPPED_SHOWN]:
            click.echo(f"WARNING: {category}: skipped {uri}: {reason}", err=True)
        for note in result.notes:
            click.echo(f"WARNING: {category}: {note}", err=True)
        if result.resumed:
            epochs = ", ".join(map(str, result.resumed))
            click.echo(f"{category}: an interrupted fit went on after epoch {epochs}", err=True)
        if len(skipped) > SKIPPED_SHOWN:
            click.echo(f"WARNING: {category}: {len(skipped) - SKIPPED_SHOWN} more were skipped, see model.json", err=True)
        if result.achieved_fpr > result.target_fpr:
            click.echo(f"WARNING: {category}: the threshold rests on {result.statement}", err=True)
