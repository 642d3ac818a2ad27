"""DOOR: the command `differnet-ray`. Heavy modules are imported inside the verbs, so that `--help` is instant."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from differnet_ray import __version__
from differnet_ray.cli_options import (
    AS_JSON,
    CATEGORIES,
    CONFIG,
    DATA,
    MODELS,
    OUTPUT,
    actors_between,
    day,
    recipe_options,
    versions_of,
)
from differnet_ray.cli_results import redecide, report, verify
from differnet_ray.config import preset
from differnet_ray.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_NOT_ALL_SCORED,
    ConfigError,
    DifferNetError,
    ModelStoreError,
)
from differnet_ray.experiments.cells import EXPERIMENTS, published_recipe

if TYPE_CHECKING:
    from differnet_ray.stages import Maps

# Options of fit that say how it works, in contrast to what the recipe is
WORKING_OPTIONS = ["shots", "together", "max_parallel", "gpus_per_fit", "bank_memory", "scratch", "checkpoint_seconds"]
WORKING_OPTIONS += ["resume", "test"]


class Door(click.Group):
    """Prints our errors without a traceback and exits with their code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the verb."""
        try:
            return super().invoke(ctx)
        except DifferNetError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("Interrupted: the same command goes on where it was.", err=True)
            ctx.exit(EXIT_INTERRUPTED)


@click.group(cls=Door, context_settings={"max_content_width": 110})
@click.version_option(__version__)
def main() -> None:
    """Finds parts that look wrong, where, and how sure, from pictures of good parts alone."""


@main.command()
@CONFIG
@click.option("--data", help="Good images: a folder or archive in the layout <category>/train/good/<name>.")
@click.option("--manifest", help="Instead of --data: a CSV, JSON Lines or Parquet file that names images.")
@MODELS
@CATEGORIES
@recipe_options
@click.option("--target-fpr", type=float, help="Share of good images that may be called anomalous.")
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
    backbone_weights: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Fit one flow per category on its good images, find thresholds, publish to the model store.

    The same command skips what is fitted already and goes on where it was killed.
    """
    from differnet_ray.fit_state import FAILED
    from differnet_ray.verbs import run_fit

    source = data or manifest
    if source is None or (data and manifest):
        raise ConfigError("fit needs --data or --manifest, and not both")
    how = {key: options.pop(key) for key in WORKING_OPTIONS}
    recipe = preset(preset_name).override(**options)
    given = {key: value for key, value in how.items() if value is not None}
    states = run_fit(source, models, categories, recipe, backbone_weights, **given)
    from differnet_ray.summaries import fit_table, state_records

    click.echo(json.dumps(state_records(states), indent=2) if as_json else fit_table(states))
    if any(state.status == FAILED for state in states.values()):
        ctx.exit(EXIT_FAILED)


@main.command()
@CONFIG
@click.option("--input", "inputs", required=True, multiple=True, help="Folder, archive or manifest of images (repeatable).")
@MODELS
@OUTPUT
@click.option("--category", metavar="NAME", help="Category of all images; default: from their paths.")
@click.option("--path-pattern", help="Such as '{line}/{date}/{category}/{name}', matched with the end of each path.")
@click.option("--date", "dt", callback=day, metavar="YYYY-MM-DD", help="Day of the results; default: today (UTC).")
@click.option("--run-id", help="Name of the run; default: from what it does.")
@click.option("--transforms", "n_transforms", type=click.IntRange(min=1), help="Use the first N of a model's transforms.")
@click.option("--maps", type=click.Choice(["none", "flagged", "all"]), default="flagged", show_default=True)
@click.option("--overlays", is_flag=True, help="Add a PNG of the image with its map over it to each gradient map.")
@click.option("--model", "versions", multiple=True, callback=versions_of, metavar="NAME=VERSION", help="Not the latest.")
@click.option("--require-models", is_flag=True, help="Refuse images of categories without a model: else they are rows.")
@click.option("--limit", type=click.IntRange(min=1), help="Score the first N images only.")
@click.option("--score-actors", "actors", callback=actors_between, metavar="MIN:MAX", help="Default: what suits the cluster.")
@click.option("--resume/--no-resume", default=True, help="Go on where the same command was killed; default, or begin anew.")
@AS_JSON
@click.pass_context
def score(ctx: click.Context, /, inputs: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Score an archive of images and land the results in Parquet."""
    from differnet_ray.verbs import run_score

    record = run_score(inputs, **options)
    from differnet_ray.summaries import not_scored, run_table

    click.echo(json.dumps(record, indent=2) if as_json else run_table(record))
    if not_scored(record):
        ctx.exit(EXIT_NOT_ALL_SCORED)


@main.command()
@CONFIG
@DATA
@MODELS
@OUTPUT
@CATEGORIES
@AS_JSON
def evaluate(data: str, models: str, output: str, categories: tuple[str, ...], as_json: bool) -> None:
    """Measure detection on a labelled data set: metrics, ROC, histograms, sheets of images."""
    from differnet_ray.data.manifest import list_images, select
    from differnet_ray.data.masks import has_masks
    from differnet_ray.data.storage import canonical
    from differnet_ray.distributed.score import models_in_use
    from differnet_ray.report.evaluation import evaluate_scores, stored_scores
    from differnet_ray.summaries import metrics_table
    from differnet_ray.verbs import run_score

    listing = select(list_images([data]), split="test", categories=categories)
    if not listing.table.num_rows:
        raise ConfigError(f"{data}: no test images; expected some in <category>/test/<defect>")
    in_use, _ = models_in_use(canonical(models), listing.categories, {})
    digests = [digest for _, digest in in_use.values()]
    rows = stored_scores(canonical(output), listing.table, digests)
    if rows is None:
        maps: Maps = "all" if has_masks(listing.table["uri"].to_pylist()) else "flagged"
        record = run_score(listing, models=models, output=output, dt=datetime.now(UTC).date(), maps=maps)
        click.echo(f"scored {record['n_images']} images in run {record['run_id']}", err=True)
        rows = stored_scores(canonical(output), listing.table, digests)
    metrics = evaluate_scores(rows, canonical(output))
    click.echo(json.dumps(metrics, indent=2) if as_json else metrics_table(metrics))
    for category, found in metrics.items():
        for note in found["notes"]:
            click.echo(f"{category}: {note}", err=True)
    click.echo(f"plots and metrics.json: {canonical(output)}/evaluation", err=True)


@main.command()
@CONFIG
@click.option("--experiment", type=click.Choice(EXPERIMENTS), required=True)
@DATA
@OUTPUT
@CATEGORIES
@click.option("--seeds", "n_seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Fits of each row.")
@recipe_options
@click.pass_context
def reproduce(
    ctx: click.Context,
    /,
    experiment: str,
    data: str,
    output: str,
    categories: tuple[str, ...],
    n_seeds: int,
    preset_name: str,
    backbone_weights: str | None,
    **changes: Any,
) -> None:
    """Re-run a table or figure of the paper on a data set in MVTec AD layout; run again, it goes on where it was."""
    from differnet_ray.verbs import run_reproduce

    recipe = published_recipe(experiment, preset(preset_name)).override(**changes)
    text, complete = run_reproduce(experiment, data, output, categories, recipe, backbone_weights, n_seeds)
    click.echo(text)
    if not complete:
        ctx.exit(EXIT_FAILED)


@main.group()
def models() -> None:
    """Look at the model store, and choose which version is in use."""


@models.command("list")
@MODELS
@AS_JSON
def models_list(models: str, as_json: bool) -> None:
    """List categories, their versions, and which is in use."""
    from differnet_ray.data.model_store import ModelStore
    from differnet_ray.data.storage import canonical
    from differnet_ray.summaries import table

    store = ModelStore(canonical(models))
    found: list[dict[str, Any]] = [
        {"category": category, "version": version, "in_use": version == store.latest(category)}
        for category in store.categories()
        for version in store.versions(category)
    ]
    rows = [[row["category"], row["version"], "in use" if row["in_use"] else ""] for row in found]
    click.echo(json.dumps(found, indent=2) if as_json else table(["category", "version", ""], rows))


@models.command("show")
@MODELS
@click.argument("category")
@click.argument("version", required=False)
@AS_JSON
def models_show(models: str, category: str, version: str | None, as_json: bool) -> None:
    """Show a model's card: data, recipe, threshold and how sure."""
    from differnet_ray.data.card import card
    from differnet_ray.data.model_store import ModelStore
    from differnet_ray.data.storage import canonical

    record = ModelStore(canonical(models)).record(category, version)
    click.echo(json.dumps(record, indent=2) if as_json else card(record))


@models.command("promote")
@MODELS
@click.argument("category")
@click.argument("version")
def models_promote(models: str, category: str, version: str) -> None:
    """Make a version the one in use, once it has loaded with all digests and as a network."""
    from differnet_ray.data.model_store import ModelStore
    from differnet_ray.data.storage import canonical
    from differnet_ray.stages import LoadedModels

    store = ModelStore(canonical(models))
    LoadedModels(store.uri, {category: version}, "cpu")[category]
    try:
        before = store.latest(category)
    except ModelStoreError:
        before = "none"
    store.promote(category, version)
    click.echo(f"{category}: {version} is in use; before: {before}")


@main.command()
@click.option("--write", "folder", metavar="DIR", help="Write one JSON file per table.")
def schemas(folder: str | None) -> None:
    """Print or write the published contracts of the tables."""
    from differnet_ray.data.storage import canonical, join, write_bytes
    from differnet_ray.data.tables import TABLES

    for table in TABLES:
        text = json.dumps(table.contract(), indent=2) + "\n"
        if folder is None:
            click.echo(text, nl=False)
        else:
            write_bytes(join(canonical(folder), f"{table.name}.json"), text.encode())


@main.command()
@click.argument("locations", nargs=-1)
@click.option("--backbone-weights", metavar="PATH", help="As for fit.")
@click.pass_context
def doctor(ctx: click.Context, locations: tuple[str, ...], backbone_weights: str | None) -> None:
    """Check Python, Ray, GPUs, weights, disk and LOCATIONS; one line each, with the mend."""
    from differnet_ray.doctor import check_all

    healthy = True
    for check in check_all(locations, backbone_weights):
        healthy &= check.healthy
        click.echo(
            f"{'ok  ' if check.healthy else 'FAIL'}  {check.name}: {check.found}" + (f" -> {check.mend}" if check.mend else "")
        )
    if not healthy:
        ctx.exit(EXIT_FAILED)


@main.command()
@click.option("--dir", "folder", default="demo", show_default=True, help="Where the demo works; kept afterwards.")
@click.option("--fast", is_flag=True, help="Fewer images and transforms.")
@click.option("--backbone-weights", metavar="PATH", help="As for fit; default: what there is, else random.")
def demo(folder: str, fast: bool, backbone_weights: str | None) -> None:
    """Run the main job on images that it makes itself: archive, fit, score, evaluate, a query."""
    from differnet_ray.demo import run_demo

    run_demo(Path(folder), fast=fast, backbone_weights=backbone_weights)


for verb in (redecide, verify, report):
    main.add_command(verb)


if __name__ == "__main__":
    sys.exit(main())
