"""`differnet-ray score`: an archive of images, scored into Parquet."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

import click

from differnet_ray.cli.options import AS_JSON, CONFIG, MODELS, OUTPUT, actors_between, day, versions_of
from differnet_ray.errors import EXIT_NOT_ALL_SCORED, ConfigError

if TYPE_CHECKING:
    from differnet_ray.archives.manifest import Listing
    from differnet_ray.config import ImageForm
    from differnet_ray.distributed.score import ScoreProgress
    from differnet_ray.pipeline.stages import Maps

CATEGORIES_SHOWN = 8  # of those in work: images come sorted by category, so they are few


@click.command()
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
    record = run_score(inputs, **options)
    click.echo(json.dumps(record, indent=2) if as_json else run_table(record))
    if not_scored(record):
        ctx.exit(EXIT_NOT_ALL_SCORED)


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
    from differnet_ray.archives.index import Naming, sources_of
    from differnet_ray.archives.manifest import Listing
    from differnet_ray.results.publish import finish_publishing
    from differnet_ray.results.runs import NO_CATEGORY, no_category_uri, plan_run, published
    from differnet_ray.storage.files import check_writable
    from differnet_ray.storage.locations import canonical, join
    from differnet_ray.tables import check_category

    models, output = canonical(models), canonical(output)
    naming = Naming(category, path_pattern)
    if category is not None:
        check_category(category)
    sources = [] if isinstance(images, Listing) else sources_of(images)
    check_writable(output)

    from differnet_ray.cli.progress import Reporter
    from differnet_ray.distributed.index import index_archives, index_listing
    from differnet_ray.distributed.resources import cluster
    from differnet_ray.distributed.score import ScoreJob, models_in_use, score_archive

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
        in_use, forms = models_in_use(models, list(index.counts), versions or {}, n_transforms)
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
            record = score_archive(job, forms, lambda progress: reporter.show(_score_tasks(progress)))
    _warn_clipped(output, record, forms)
    return record


def _warn_clipped(output: str, record: Mapping[str, Any], forms: Mapping[str, ImageForm]) -> None:
    """Counts images whose grey values are not those that their model was fitted on."""
    from differnet_ray.results import n_clipped
    from differnet_ray.tables import GREY_CLIPPED

    for category, form in forms.items():
        if form.grey_range and (n := n_clipped(output, record["dt"], record["run_id"], category)):
            low, high = form.grey_range
            click.echo(
                f"WARNING: {category}: images with grey values outside of the model's {low:g} to {high:g}, which are clipped: "
                f"{n}; the attribute {GREY_CLIPPED} of their rows has the share of the pixels",
                err=True,
            )


def _score_tasks(progress: ScoreProgress) -> dict[str, tuple[int, int, str]]:
    counts = sum(map(Counter, progress.counts.values()), Counter[str]())
    said = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
    tasks = {"all": (progress.all_done, sum(progress.totals.values()), said)}
    in_work = [category for category, total in progress.totals.items() if 0 < progress.done(category) < total]
    for category in in_work[:CATEGORIES_SHOWN]:
        said = ", ".join(f"{n} {status}" for status, n in sorted(progress.counts[category].items()))
        tasks[category] = (progress.done(category), progress.totals[category], said)
    return tasks


def run_table(record: Mapping[str, Any]) -> str:
    """Counts by category and status of a scoring run."""
    from differnet_ray.cli.text_table import table
    from differnet_ray.tables import SCORED_STATUSES, STATUSES

    statuses = [status for status in STATUSES if status in record["counts"] or status in SCORED_STATUSES]
    rows = [
        [category, *(str(counts.get(status, 0)) for status in statuses), str(sum(counts.values()))]
        for category, counts in {**record["category_counts"], "all": record["counts"]}.items()
    ]
    return f"{table(['category', *statuses, 'images'], rows)}\n\nrun {record['run_id']}, {record['n_maps']} gradient maps"


def not_scored(record: Mapping[str, Any]) -> int:
    """Images of a run that could not be scored."""
    from differnet_ray.tables import SCORED_STATUSES

    return sum(n for status, n in record["counts"].items() if status not in SCORED_STATUSES)
