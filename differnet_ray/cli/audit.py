"""`differnet-ray audit`: the nightly job, which scores what is new or changed since the last one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Any

import click

from differnet_ray.cli.night import audit_text, carried_out, made_up
from differnet_ray.cli.options import (
    AS_JSON,
    CONFIG,
    OUTPUT,
    actors_between,
    day,
    day_or_none,
    limits_of,
    versions_of,
    webhook_options,
)
from differnet_ray.cli.score import indexed, no_models, not_scored
from differnet_ray.errors import EXIT_ALARM, EXIT_NOT_ALL_SCORED, ConfigError
from differnet_ray.limits import AlarmLimits

if TYPE_CHECKING:
    from differnet_ray.distributed.audit import AuditJob
    from differnet_ray.pipeline.stages import Maps
    from differnet_ray.results.ledger import Comparison
    from differnet_ray.webhook import Webhooks
    from differnet_ray.webhook_messages import Form


@click.command()
@CONFIG
@click.option("--input", "inputs", multiple=True, help="Folder, archive or manifest of images (repeatable).  [required]")
@click.option("--models", help="Model store: a folder or s3:// URI.  [required]")
@OUTPUT
@click.option("--category", metavar="NAME", help="Category of all images; default: from their paths.")
@click.option("--path-pattern", help="Such as '{line}/{date}/{category}/{name}', matched with the end of each path.")
@click.option("--date", "dt", callback=day, metavar="YYYY-MM-DD", help="The night; default: today (UTC).")
@click.option("--since", callback=day_or_none, metavar="YYYY-MM-DD", help="Take again what was audited from this night on.")
@click.option("--all", "everything", is_flag=True, help="Take all images again.")
@click.option("--transforms", "n_transforms", type=click.IntRange(min=1), help="Use the first N of a model's transforms.")
@click.option("--maps", type=click.Choice(["none", "flagged", "all"]), default="flagged", show_default=True)
@click.option("--overlays", is_flag=True, help="Add a PNG of the image with its map over it to each gradient map.")
@click.option("--model", "versions", multiple=True, callback=versions_of, metavar="NAME=VERSION", help="Not the latest.")
@click.option("--score-actors", "actors", callback=actors_between, metavar="MIN:MAX", help="Default: what suits the cluster.")
@click.option("--limits", "limits_file", metavar="FILE", help="When to alarm: a TOML file, see jobs/limits.toml.")
@click.option("--false-alarms-per-year", type=float, help="Nights with a false alarm in a year, at most; default: 2.")
@click.option("--report", metavar="URI", help="Folder of the pages; default: OUTPUT/reports.")
@webhook_options
@click.option("--resume/--no-resume", default=True, help="Finish an audit that was killed as it was planned; default, or anew.")
@click.option("--dry-run", is_flag=True, help="Say what is new, changed and gone; score and write nothing.")
@click.option("--index", "index_only", is_flag=True, help="Only write the page over all nights anew; --output is enough.")
@AS_JSON
@click.pass_context
def audit(
    ctx: click.Context,
    /,
    inputs: tuple[str, ...],
    models: str | None,
    index_only: bool,
    since: date | None,
    everything: bool,
    limits_file: str | None,
    false_alarms_per_year: float | None,
    as_json: bool,
    dry_run: bool,
    urls: tuple[str, ...],
    form: Form | None,
    always: bool,
    **options: Any,
) -> None:
    """Score what is new or changed in an archive since the last audit, judge the night, and write the report.

    An audit that failed or was killed is made up first, each image once. Where nothing is new, nothing is done.
    """
    if index_only:
        click.echo(write_index(options["output"], options["report"]))
        return
    if not inputs or models is None:
        missing = "models" if inputs else "inputs"
        raise click.MissingParameter(ctx=ctx, param=next(option for option in ctx.command.params if option.name == missing))
    from differnet_ray.results.ledger import EVER
    from differnet_ray.webhook import Webhooks

    webhooks = Webhooks(urls, form, always)
    if everything and since is not None:
        raise ConfigError("--all and --since: give one of them")
    limits = limits_of(limits_file, false_alarms_per_year)
    since = EVER if everything else since
    done = run_audit(inputs, models=models, since=since, dry_run=dry_run, limits=limits, webhooks=webhooks, **options)
    click.echo(json.dumps({"audits": done}, indent=2) if as_json else "\n\n".join(map(audit_text, done)) or "nothing to do")
    if any(record.get("alarms") for record in done):
        ctx.exit(EXIT_ALARM)
    if any(map(not_scored, done)):
        ctx.exit(EXIT_NOT_ALL_SCORED)


def run_audit(
    inputs: Sequence[str],
    *,
    models: str,
    output: str,
    dt: date,
    since: date | None = None,
    category: str | None = None,
    path_pattern: str | None = None,
    n_transforms: int | None = None,
    maps: Maps = "flagged",
    overlays: bool = False,
    versions: Mapping[str, str] | None = None,
    actors: tuple[int, int] | None = None,
    limits: AlarmLimits | None = None,
    report: str | None = None,
    webhooks: Webhooks | None = None,
    resume: bool = True,
    dry_run: bool = False,
) -> list[dict[str, Any]]:
    """`audit`, checked before any work.

    Args:
        inputs: locations of the archive.
        models: the model store.
        output: the results, beside which the ledger lies.
        dt: the night.
        since: images that were audited in this night or later are taken again (`ledger.EVER`: all).
        category: of all images of the locations; None: from manifests and paths.
        path_pattern: what their paths say.
        n_transforms: score with the first so many transforms of each model; all if None.
        maps: which images get a gradient map.
        overlays: add pictures of the images with their maps over them.
        versions: category to version, where it is not the latest.
        actors: least and largest number of scoring actors.
        limits: when to alarm; None: as where nothing is said.
        report: folder of the pages; None: OUTPUT/reports.
        webhooks: who is told of it; None: nobody.
        resume: finish an audit that was killed as it was planned; else plan it anew, unless its rows are published.
        dry_run: compare only; write nothing.

    Returns:
        The records of the audits that were done, the one that was made up first; of a dry run, what would be done.
    """
    from differnet_ray.archives.index import Naming, sources_of
    from differnet_ray.results.audits import lease_of_audits
    from differnet_ray.storage.files import check_writable
    from differnet_ray.storage.lease import lease
    from differnet_ray.storage.locations import canonical, join
    from differnet_ray.tables import check_category

    models, output = canonical(models), canonical(output)
    reports = pages_of(output, report)
    naming = Naming(category, path_pattern)
    if category is not None:
        check_category(category)
    sources = sources_of(inputs)
    limits = limits or AlarmLimits()

    from differnet_ray.distributed.audit import AuditJob, compared, planned
    from differnet_ray.distributed.resources import cluster
    from differnet_ray.distributed.score import models_in_use

    job = AuditJob(
        inputs=tuple(canonical(location) for location in inputs),
        models=models,
        output=output,
        dt=dt,
        since=since,
        versions=versions or {},
        n_transforms=n_transforms,
        maps=maps,
        overlays=overlays,
        actors=actors,
        resume=resume,
    )
    done = []
    with ExitStack() as stack:
        if not dry_run:
            check_writable(output)
            stack.enter_context(lease(lease_of_audits(output)))
        stack.enter_context(cluster())
        if not dry_run and (unfinished := made_up(job, reports, limits, webhooks)):
            done.append(unfinished)
            if since and unfinished["since"] and unfinished["since"] <= str(since):  # that has taken them again
                job = replace(job, since=None)
        index = indexed(sources, naming, cache=None if dry_run else join(output, "_index"))
        if not models_in_use(models, list(index.counts), job.versions, n_transforms)[0]:
            raise ConfigError(no_models(models, index, naming))
        if dry_run:
            return [_foreseen(job, compared(index, job, write=False))]
        plan = planned(index, job)
        if plan is not None:
            done.append(carried_out(plan, job, reports, limits, webhooks))
    return done


def write_index(output: str, report: str | None) -> str:
    """Writes the page over all nights, from the records of the audits; returns its URI."""
    from differnet_ray.report.night_index import write_night_index
    from differnet_ray.storage.locations import canonical

    return write_night_index(canonical(output), pages_of(canonical(output), report))


def pages_of(output: str, report: str | None) -> str:
    """Canonical URI of the folder of the pages."""
    from differnet_ray.results.housekeeping import REPORTS
    from differnet_ray.storage.locations import canonical, join

    return join(output, REPORTS) if report is None else canonical(report)


def _foreseen(job: AuditJob, comparison: Comparison) -> dict[str, Any]:
    """What an audit would do."""
    from differnet_ray.results.audits import pending

    unfinished = pending(job.output)
    return {
        "dt": str(job.dt),
        "unfinished": unfinished and unfinished.audit_id,
        "n_listed": sum(comparison.listed.values()),
        "is_whole": comparison.is_whole,
        "listed": comparison.listed,
        "changes": comparison.changes,
        "counts": {},
    }
