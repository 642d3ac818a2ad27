"""DOOR: the command `differnet-ray`. Heavy modules are imported inside the verbs, so that `--help` is instant."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from differnet_ray import __version__
from differnet_ray.config import PRESETS, preset
from differnet_ray.errors import ConfigError, DifferNetError, ModelStoreError
from differnet_ray.experiments.cells import EXPERIMENTS, published_recipe

if TYPE_CHECKING:
    from differnet_ray.stages import Maps

EXIT_FAILED, EXIT_NOT_ALL_SCORED, EXIT_INTERRUPTED = 1, 4, 130
# Options of fit that say how it works, in contrast to what the recipe is
WORKING_OPTIONS = ["shots", "together", "max_parallel", "gpus_per_fit", "bank_memory", "scratch", "checkpoint_seconds"]
WORKING_OPTIONS += ["resume", "test"]
Command = Callable[..., Any]


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


def _read_config(ctx: click.Context, _: click.Parameter, path: str | None) -> None:
    if path is None:
        return
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"configuration file {path}: {error}") from error
    names = {option.opts[0].removeprefix("--").replace("-", "_"): str(option.name) for option in ctx.command.params}
    for key in values:
        if key not in names or key == "config":
            known = ", ".join(sorted(set(names) - {"config"}))
            raise ConfigError(f"configuration file {path}: unknown option {key!r}; {ctx.command.name} has: {known}")
    ctx.default_map = {names[key]: value for key, value in values.items()}


def _day(_: click.Context, __: click.Parameter, value: str | None) -> date:
    if value is None:
        return datetime.now(UTC).date()
    try:
        return date.fromisoformat(value)
    except ValueError as error:
        raise ConfigError(f"--date {value!r}: expected YYYY-MM-DD") from error


def _actors(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    least, most = value.partition(":")[::2]
    try:
        numbers = int(least), int(most or least)
    except ValueError:
        numbers = 0, 0
    if not 1 <= numbers[0] <= numbers[1]:
        raise ConfigError(f"--score-actors {value}: expected MIN:MAX, such as 1:8, or one number")
    return numbers


def _versions(_: click.Context, __: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    pairs = [value.partition("=")[::2] for value in values]
    if not all(name and version for name, version in pairs):
        raise ConfigError(f"--model {' '.join(values)}: expected NAME=VERSION")
    return dict(pairs)


_config = click.option(
    "--config",
    type=click.Path(),
    is_eager=True,
    expose_value=False,
    callback=_read_config,
    help="TOML file with defaults.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
_models = click.option("--models", required=True, help="Model store: a folder or s3:// URI.")
_output = click.option("--output", required=True, help="Results: a folder or s3:// URI.")
_category = click.option("--category", "categories", multiple=True, metavar="NAME", help="Only this category (repeatable).")
_data = click.option("--data", required=True, help="Images in the layout <category>/<train|test>/<defect>/<name>.")


def _recipe(verb: Command) -> Command:
    """The options that a recipe is made from."""
    for option in reversed(
        [
            click.option("--preset", "preset_name", type=click.Choice(list(PRESETS)), default="paper", show_default=True),
            click.option("--backbone-weights", metavar="PATH", help="AlexNet (.safetensors, .pth), or the word random."),
            click.option("--epochs", type=int, help="Instead of the preset's."),
            click.option("--learning-rate", type=float, help="Of Adam."),
            click.option("--transforms", "n_transforms", type=int, help="T: transforms that a score is the mean of."),
            click.option("--brightness", type=float, help="Half-width of the brightness factors, such as 0.15."),
            click.option("--contrast", type=float, help="Half-width of the contrast factors, such as 0.15."),
            click.option("--image-size", type=int, help="H: pixels a side after resizing."),
            click.option("--scales", "n_scales", type=int, help="S: scales that features are taken at."),
            click.option("--blocks", "n_blocks", type=int, help="K: coupling blocks of the flow."),
            click.option("--clamp-alpha", type=float, help="alpha of eq. 2; a smaller one keeps training stable."),
            click.option("--hidden", type=int, help="Width of the flow's networks."),
            click.option("--fresh-epochs", type=int, help="Epochs with new random transforms; then they repeat."),
        ]
    ):
        verb = option(verb)
    return verb


@click.group(cls=Door, context_settings={"max_content_width": 110})
@click.version_option(__version__)
def main() -> None:
    """Finds parts that look wrong, where, and how sure, from pictures of good parts alone."""


@main.command()
@_config
@click.option("--data", help="Good images: a folder or archive in the layout <category>/train/good/<name>.")
@click.option("--manifest", help="Instead of --data: a CSV, JSON Lines or Parquet file that names images.")
@_models
@_category
@_recipe
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
@_json
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
@_config
@click.option("--input", "inputs", required=True, multiple=True, help="Folder, archive or manifest of images (repeatable).")
@_models
@_output
@click.option("--category", metavar="NAME", help="Category of all images; default: from their paths.")
@click.option("--path-pattern", help="Such as '{line}/{date}/{category}/{name}', matched with the end of each path.")
@click.option("--date", "dt", callback=_day, metavar="YYYY-MM-DD", help="Day of the results; default: today (UTC).")
@click.option("--run-id", help="Name of the run; default: from what it does.")
@click.option("--transforms", "n_transforms", type=click.IntRange(min=1), help="Use the first N of a model's transforms.")
@click.option("--maps", type=click.Choice(["none", "flagged", "all"]), default="flagged", show_default=True)
@click.option("--model", "versions", multiple=True, callback=_versions, metavar="NAME=VERSION", help="Not the latest.")
@click.option("--require-models", is_flag=True, help="Refuse images of categories without a model: else they are rows.")
@click.option("--limit", type=click.IntRange(min=1), help="Score the first N images only.")
@click.option("--score-actors", "actors", callback=_actors, metavar="MIN:MAX", help="Default: what suits the cluster.")
@click.option("--resume/--no-resume", default=True, help="Go on where the same command was killed; default, or begin anew.")
@_json
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
@_config
@_data
@_models
@_output
@_category
@_json
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
@_config
@click.option("--experiment", type=click.Choice(EXPERIMENTS), required=True)
@_data
@_output
@_category
@click.option("--seeds", "n_seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Fits of each row.")
@_recipe
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
@_models
@_json
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
@_models
@click.argument("category")
@click.argument("version", required=False)
@_json
def models_show(models: str, category: str, version: str | None, as_json: bool) -> None:
    """Show a model's card: data, recipe, threshold and how sure."""
    from differnet_ray.data.card import card
    from differnet_ray.data.model_store import ModelStore
    from differnet_ray.data.storage import canonical

    record = ModelStore(canonical(models)).record(category, version)
    click.echo(json.dumps(record, indent=2) if as_json else card(record))


@models.command("promote")
@_models
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


if __name__ == "__main__":
    sys.exit(main())
