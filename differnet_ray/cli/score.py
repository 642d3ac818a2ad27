"""`differnet-ray score`: an archive of images, scored into Parquet."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import date
from typing import TYPE_CHECKING, Any

import click

from differnet_ray.cli.json_log import bind
from differnet_ray.cli.options import AS_JSON, CONFIG, MODELS, OUTPUT, actors_between, day, versions_of
from differnet_ray.errors import EXIT_NOT_ALL_SCORED, ConfigError

if TYPE_CHECKING:
    from differnet_ray.archives.index import Naming, Source
    from differnet_ray.archives.manifest import Listing
    from differnet_ray.config import ImageForm
    from differnet_ray.distributed.index import Index
    from differnet_ray.distributed.score import ScoreProgress
    from differnet_ray.pipeline.stages import Maps
    from differnet_ray.results.runs import Run

CATEGORIES_SHOWN = 8  # of those in work: images come sorted by category, so they are few
TO_SCORE = "to_score"  # in a dry run, what is neither of the statuses no_model and too_large


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
@click.option("--replace", is_flag=True, help="The day holds this run alone; default: rows of other images stay.")
@click.option("--resume/--no-resume", default=True, help="Go on where the same command was killed; default, or begin anew.")
@click.option("--dry-run", is_flag=True, help="Index, count and show what the paths say; score and write nothing.")
@AS_JSON
@click.pass_context
def score(ctx: click.Context, /, inputs: tuple[str, ...], as_json: bool, dry_run: bool, **options: Any) -> None:
    """Score an archive of images and land the results in Parquet."""
    record = run_score(inputs, dry_run=dry_run, **options)
    if dry_run:
        click.echo(json.dumps(record, indent=2) if as_json else plan_table(record))
        return
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
    replace: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """`score`, checked before any work; returns the content of the run file, or of a dry run what would be done.

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
        replace: remove all rows of other runs from the day, also of other images.
        dry_run: index and count only; write nothing.
    """
    from differnet_ray.archives.index import Naming, sources_of
    from differnet_ray.archives.manifest import Listing
    from differnet_ray.results.publish import publish_alone, publishing
    from differnet_ray.results.runs import NAMED_REASONS, no_category_uri, plan_run, published
    from differnet_ray.storage.files import check_writable
    from differnet_ray.storage.locations import canonical, join
    from differnet_ray.tables import check_category

    models, output = canonical(models), canonical(output)
    naming = Naming(category, path_pattern)
    if category is not None:
        check_category(category)
    sources = [] if isinstance(images, Listing) else sources_of(images)
    if not dry_run:
        check_writable(output)

    from differnet_ray.cli.progress import Reporter
    from differnet_ray.distributed.index import index_listing
    from differnet_ray.distributed.resources import cluster
    from differnet_ray.distributed.score import ScoreJob, models_in_use, run_options, score_archive

    with cluster():
        if isinstance(images, Listing):
            index = index_listing(images)
        else:
            index = indexed(sources, naming, limit=limit, cache=None if dry_run else join(output, "_index"))
        in_use, forms = models_in_use(models, list(index.counts), versions or {}, n_transforms)
        without = [category for category in index.counts if category not in in_use]
        if not in_use:
            raise ConfigError(no_models(models, index, naming))
        if without and require_models:
            raise ConfigError(f"{models} has no model of {_some(without)}: run fit first, or take those images out")
        run = plan_run(
            dt=dt,
            listing_digest=index.digest,
            models=in_use,
            options=run_options(n_transforms, maps, overlays=overlays),
            run_id=run_id,
            skipped=index.skipped,
        )
        bind(run=run.run_id)
        done = published(output, run)
        if dry_run:
            return {**_plan(index, run, naming), "published_at": done and done["finished_at"]}
        if sources and index.skipped:
            click.echo("not scored: " + ", ".join(f"{n} files ({why})" for why, n in index.skipped.items()), err=True)
        if not index.skipped.keys().isdisjoint(NAMED_REASONS):
            click.echo(
                f"WARNING: images without a category, or with several: {no_category_uri(output, run.run_id)} names them",
                err=True,
            )
        if done is not None and resume:
            if replace:
                return publish_alone(output, run, done)
            with publishing(output, dt):  # puts right what a kill has left
                pass
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
            replace=replace,
        )
        with Reporter("images") as reporter:
            record = score_archive(job, forms, lambda progress: reporter.show(score_tasks(progress)))
    warn_clipped(output, record, forms)
    return record


def indexed(sources: Sequence[Source], naming: Naming, *, limit: int | None = None, cache: str | None = None) -> Index:
    """`distributed.index.index_archives`, with a bar."""
    from differnet_ray.cli.progress import Reporter
    from differnet_ray.distributed.index import index_archives

    with Reporter("sources") as reporter:
        return index_archives(
            sources,
            naming,
            limit=limit,
            cache=cache,
            on_progress=lambda p: reporter.show({"index": (p.done, p.total, f"{p.n_images:,} images")}),
        )


def warn_clipped(output: str, record: Mapping[str, Any], forms: Mapping[str, ImageForm]) -> None:
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


def no_models(models: str, index: Index, naming: Naming) -> str:
    """What to say where no image is of a category that has a model."""
    from differnet_ray.store.model_store import ModelStore

    return "\n".join(
        [
            f"{models} has no model of {_some(index.counts)}; it has: {_some(ModelStore(models).categories()) or 'none'}",
            f"Read by {_origin(naming)}:",
            *(f"  {_example(example)}" for example in map(asdict, index.summary.examples)),
            "Correct --path-pattern, which is matched with the end of each path, or give --category NAME, or run fit first.",
        ]
    )


def _origin(naming: Naming) -> str:
    """What gives images their category and attributes, unless a manifest does."""
    if naming.category:
        return f"--category {naming.category}"
    if naming.path_pattern:
        return f"--path-pattern {naming.path_pattern!r}"
    return "the layout <category>/<train|test>/<defect>/<name>"


def _example(example: Mapping[str, Any]) -> str:
    said = {"category": example["category"], **example["attributes"]}
    return f"{example['path']}: " + ", ".join(f"{name} {value!r}" for name, value in said.items())


def _some(names: Iterable[str]) -> str:
    found = sorted(names)
    more = len(found) - CATEGORIES_SHOWN
    return ", ".join(found[:CATEGORIES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _plan(index: Index, run: Run, naming: Naming) -> dict[str, Any]:
    """What a run would do, as far as the index tells."""
    category_counts = {}
    for category, n in index.counts.items():
        large = index.summary.too_large.get(category, 0)
        to_be = {TO_SCORE: n - large, "too_large": large} if category in run.models else {"no_model": n}
        category_counts[category] = {status: number for status, number in to_be.items() if number}
    return {
        "run_id": run.run_id,
        "n_images": index.n_images,
        "counts": dict(sum(map(Counter, category_counts.values()), Counter[str]())),
        "category_counts": category_counts,
        "models": {category: version for category, (version, _) in run.models.items()},
        "skipped": index.skipped,
        "no_category": index.summary.complaint or None,
        "read_by": _origin(naming),
        "examples": [asdict(example) for example in index.summary.examples],
    }


def plan_table(plan: Mapping[str, Any]) -> str:
    """What a dry run found, for people."""
    skipped = ", ".join(f"{n} files ({why})" for why, n in plan["skipped"].items())
    known = f", which was published at {plan['published_at']}" if plan["published_at"] else ""
    return "\n".join(
        [
            _counts_table(plan, [TO_SCORE, *(status for status in ("no_model", "too_large") if status in plan["counts"])]),
            "",
            f"Read by {plan['read_by']}:",
            *(f"  {_example(example)}" for example in plan["examples"]),
            "",
            f"Skipped: {skipped or 'none'}",
            *([plan["no_category"]] if plan["no_category"] else []),
            "",
            f"Nothing was scored. Without --dry-run this is run {plan['run_id']}{known}.",
        ]
    )


def score_tasks(progress: ScoreProgress) -> dict[str, tuple[int, int, str]]:
    """What a `Reporter` shows of a scoring run."""
    counts = sum(map(Counter, progress.counts.values()), Counter[str]())
    said = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
    tasks = {"all": (progress.all_done, sum(progress.totals.values()), said)}
    in_work = [category for category, total in progress.totals.items() if 0 < progress.done(category) < total]
    for category in in_work[:CATEGORIES_SHOWN]:
        said = ", ".join(f"{n} {status}" for status, n in sorted(progress.counts[category].items()))
        tasks[category] = (progress.done(category), progress.totals[category], said)
    return tasks


def run_table(record: Mapping[str, Any]) -> str:
    """What came of a scoring run, for people."""
    lines = [status_table(record), "", f"run {record['run_id']}, {record['n_maps']} maps"]
    lines += [f"replaced {n:,} rows of the run {run_id}" for run_id, n in record.get("replaced", {}).items()]
    return "\n".join(lines)


def status_table(record: Mapping[str, Any]) -> str:
    """Counts by category and status."""
    from differnet_ray.tables import SCORED_STATUSES, STATUSES

    return _counts_table(record, [name for name in STATUSES if name in record["counts"] or name in SCORED_STATUSES])


def _counts_table(record: Mapping[str, Any], statuses: Sequence[str]) -> str:
    from differnet_ray.cli.text_table import table

    rows = [
        [category, *(str(counts.get(status, 0)) for status in statuses), str(sum(counts.values()))]
        for category, counts in {**record["category_counts"], "all": record["counts"]}.items()
    ]
    return table(["category", *statuses, "images"], rows)


def not_scored(record: Mapping[str, Any]) -> int:
    """Images of a run that could not be scored."""
    from differnet_ray.tables import SCORED_STATUSES

    return sum(n for status, n in record["counts"].items() if status not in SCORED_STATUSES)
