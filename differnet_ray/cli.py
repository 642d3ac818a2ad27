"""DOOR: the command `differnet-ray`. Heavy modules are imported inside the verbs, so that `--help` is instant."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from differnet_ray import __version__
from differnet_ray.config import PRESETS, Recipe, preset
from differnet_ray.errors import ConfigError, DifferNetError

if TYPE_CHECKING:
    from differnet_ray.fit_state import CategoryState

EXIT_FAILED, EXIT_NOT_ALL_SCORED, EXIT_INTERRUPTED = 1, 4, 130
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
            click.echo("Interrupted.", err=True)
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


@click.group(cls=Door, context_settings={"max_content_width": 110})
@click.version_option(__version__)
def main() -> None:
    """Finds parts that look wrong, where, and how sure, from pictures of good parts alone."""


@main.command()
@_config
@_data
@_models
@_category
@click.option("--preset", "preset_name", type=click.Choice(list(PRESETS)), default="paper", show_default=True)
@click.option("--backbone-weights", metavar="PATH", help="AlexNet weights (.safetensors, .pth), or the word random.")
@click.option("--epochs", type=int, help="Instead of the preset's.")
@click.option("--transforms", "n_transforms", type=int, help="T: transforms that a score is the mean of.")
@click.option("--brightness", type=float, help="Half-width of the brightness factors, such as 0.15.")
@click.option("--contrast", type=float, help="Half-width of the contrast factors, such as 0.15.")
@click.option("--image-size", type=int, help="H: pixels a side after resizing.")
@click.option("--scales", "n_scales", type=int, help="S: scales that features are taken at.")
@click.option("--blocks", "n_blocks", type=int, help="K: coupling blocks of the flow.")
@click.option("--hidden", type=int, help="Width of the flow's networks.")
@click.option("--target-fpr", type=float, help="Share of good images that may be called anomalous.")
@click.option("--seed", type=int, help="Of weights, transforms, order and hold-out.")
@click.option("--max-parallel", type=click.IntRange(min=1), help="Fits at the same time; default: what the cluster holds.")
@click.option("--gpus-per-fit", type=click.FloatRange(min=0), help="Share of a GPU for each fit.")
@_json
@click.pass_context
def fit(
    ctx: click.Context,
    /,
    data: str,
    models: str,
    categories: tuple[str, ...],
    preset_name: str,
    backbone_weights: str | None,
    max_parallel: int | None,
    gpus_per_fit: float | None,
    as_json: bool,
    **changes: Any,
) -> None:
    """Fit one flow per category on its good images, find thresholds, publish to the model store."""
    recipe = preset(preset_name).override(**changes)
    states = run_fit(data, models, categories, recipe, backbone_weights, max_parallel, gpus_per_fit)
    from differnet_ray.summaries import fit_table, state_records

    click.echo(json.dumps(state_records(states), indent=2) if as_json else fit_table(states))
    if any(state.status == "failed" for state in states.values()):
        ctx.exit(EXIT_FAILED)


def run_fit(
    data: str,
    models: str,
    categories: Sequence[str],
    recipe: Recipe,
    backbone_weights: str | None,
    max_parallel: int | None = None,
    gpus_per_fit: float | None = None,
) -> Mapping[str, CategoryState]:
    """`fit`, checked before any work; returns the final state of each category."""
    from differnet_ray.data.manifest import list_images, select
    from differnet_ray.data.model_store import Backbone
    from differnet_ray.data.storage import canonical, check_writable
    from differnet_ray.model.extractor import RANDOM, load_backbone_weights, weights_digest

    weights, name = load_backbone_weights(backbone_weights)
    pretrained = not name.startswith(RANDOM)
    if not pretrained:
        click.echo(
            "NOTICE: the backbone has RANDOM, untrained weights. Its models are for demonstrations only; give pretrained "
            "ones with --backbone-weights PATH or DIFFERNET_BACKBONE_WEIGHTS.",
            err=True,
        )
    good = select(list_images([data]), split="train", defect="good")
    for category in categories or [data]:
        if not select(good, categories=[category] if categories else []).table.num_rows:
            raise ConfigError(f"{category}: no good images below {data}; expected some in <category>/train/good")
    listing = select(good, categories=categories)
    check_writable(canonical(models))

    from differnet_ray.distributed.fit import FitJob, check_usable, fit_categories
    from differnet_ray.distributed.resources import cluster
    from differnet_ray.progress import Reporter
    from differnet_ray.summaries import warn_skipped

    check_usable(listing, recipe)
    job = FitJob(
        listing=listing,
        data=(canonical(data),),
        models=canonical(models),
        recipe=recipe,
        backbone=Backbone(name, weights_digest(weights), pretrained),
        weights={key: tensor.numpy() for key, tensor in weights.items()},
        max_parallel=max_parallel,
        gpus_per_fit=gpus_per_fit,
    )
    with cluster(), Reporter("steps") as reporter:
        states = fit_categories(job, lambda states: reporter.show(_fit_tasks(states)))
    warn_skipped(states)
    return states


def _fit_tasks(states: Mapping[str, CategoryState]) -> dict[str, tuple[int, int, str]]:
    finished = sum(state.status in ("fitted", "failed") for state in states.values())
    tasks = {"all categories": (finished, len(states), "")}
    for category, state in states.items():
        if state.progress is not None and state.status == "running":
            loss = "" if state.progress.loss is None else f"loss {state.progress.loss:.3f}"
            tasks[f"{category} {state.progress.phase}"] = (state.progress.done, state.progress.total, loss)
    return tasks


@main.command()
@_config
@click.option("--input", "inputs", required=True, multiple=True, help="Folder or s3:// prefix of images (repeatable).")
@_models
@_output
@click.option("--category", metavar="NAME", help="Category of all images; default: from their paths.")
@click.option("--path-pattern", help="Such as '{line}/{date}/{category}/{name}', matched with the end of each path.")
@click.option("--date", "dt", callback=_day, metavar="YYYY-MM-DD", help="Day of the results; default: today (UTC).")
@click.option("--run-id", help="Name of the run; default: from what it does.")
@click.option("--transforms", "n_transforms", type=click.IntRange(min=1), help="Use the first N of a model's transforms.")
@click.option("--maps", type=click.Choice(["none", "flagged", "all"]), default="flagged", show_default=True)
@click.option("--model", "versions", multiple=True, callback=_versions, metavar="NAME=VERSION", help="Not the latest.")
@click.option("--limit", type=click.IntRange(min=1), help="Score the first N images only.")
@_json
@click.pass_context
def score(ctx: click.Context, /, inputs: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Score an archive of images and land the results in Parquet."""
    from differnet_ray.data.manifest import list_images

    listing = list_images(
        inputs, category=options.pop("category"), path_pattern=options.pop("path_pattern"), limit=options.pop("limit")
    )
    if listing.skipped:
        click.echo("not scored: " + ", ".join(f"{n} files ({why})" for why, n in listing.skipped.items()), err=True)
    record = run_score(listing, **options)
    from differnet_ray.summaries import not_scored, run_table

    click.echo(json.dumps(record, indent=2) if as_json else run_table(record))
    if not_scored(record):
        ctx.exit(EXIT_NOT_ALL_SCORED)


def run_score(
    listing: Any,
    *,
    models: str,
    output: str,
    dt: date,
    run_id: str | None = None,
    n_transforms: int | None = None,
    maps: Any = "flagged",
    versions: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """`score` of a listing, checked before any work; returns the content of the run file."""
    from differnet_ray.data.results import plan_run, published
    from differnet_ray.data.storage import canonical, check_writable

    models, output = canonical(models), canonical(output)
    check_writable(output)

    from differnet_ray.distributed.resources import cluster
    from differnet_ray.distributed.score import ScoreJob, models_in_use, score_archive
    from differnet_ray.progress import Reporter

    in_use, image_sizes = models_in_use(models, listing.categories, versions or {}, n_transforms)
    if not in_use:
        raise ConfigError(
            f"{models} has no model of any category of the images ({', '.join(listing.categories)}): run fit first"
        )
    run = plan_run(
        dt=dt,
        listing_digest=listing.digest(),
        models=in_use,
        options={"n_transforms": str(n_transforms or "all"), "maps": maps},
        run_id=run_id,
    )
    done = published(output, run)
    if done is not None:
        click.echo(f"run {run.run_id} has been published already, at {done['finished_at']}: nothing to do", err=True)
        return done
    job = ScoreJob(run=run, listing=listing, models=models, output=output, n_transforms=n_transforms, maps=maps)
    with cluster(), Reporter("images") as reporter:
        return score_archive(
            job,
            image_sizes,
            lambda progress: reporter.show(
                {
                    "score": (
                        progress.done,
                        progress.total,
                        ", ".join(f"{n} {s}" for s, n in sorted(progress.counts.items())),
                    )
                }
            ),
        )


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
    from differnet_ray.data.storage import canonical
    from differnet_ray.distributed.score import models_in_use
    from differnet_ray.report.evaluation import evaluate_scores, stored_scores
    from differnet_ray.summaries import metrics_table

    listing = select(list_images([data]), split="test", categories=categories)
    if not listing.table.num_rows:
        raise ConfigError(f"{data}: no test images; expected some in <category>/test/<defect>")
    in_use, _ = models_in_use(canonical(models), listing.categories, {})
    digests = [digest for _, digest in in_use.values()]
    rows = stored_scores(canonical(output), listing.table, digests)
    if rows is None:
        record = run_score(listing, models=models, output=output, dt=datetime.now(UTC).date())
        click.echo(f"scored {record['n_images']} images in run {record['run_id']}", err=True)
        rows = stored_scores(canonical(output), listing.table, digests)
    metrics = evaluate_scores(rows, canonical(output))
    click.echo(json.dumps(metrics, indent=2) if as_json else metrics_table(metrics))
    click.echo(f"plots and metrics.json: {canonical(output)}/evaluation", err=True)


@main.group()
def models() -> None:
    """Look at the model store."""


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
    from differnet_ray.data.model_store import ModelStore, card
    from differnet_ray.data.storage import canonical

    record = ModelStore(canonical(models)).record(category, version)
    click.echo(json.dumps(record, indent=2) if as_json else card(record))


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
@click.option("--fast", is_flag=True, help="Fewer images and epochs.")
@click.option("--backbone-weights", metavar="PATH", help="As for fit; default: what there is, else random.")
def demo(folder: str, fast: bool, backbone_weights: str | None) -> None:
    """Run the main job on images that it makes itself: archive, fit, score, evaluate, a query."""
    from differnet_ray.demo import run_demo

    run_demo(Path(folder), fast=fast, backbone_weights=backbone_weights)


if __name__ == "__main__":
    sys.exit(main())
