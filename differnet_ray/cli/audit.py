"""`differnet-ray audit`: the nightly job, which scores what is new or changed since the last one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Any

import click

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
from differnet_ray.cli.score import indexed, no_models, not_scored, score_tasks, status_table, warn_clipped
from differnet_ray.errors import EXIT_ALARM, EXIT_NOT_ALL_SCORED, ConfigError
from differnet_ray.limits import AlarmLimits

if TYPE_CHECKING:
    from differnet_ray.distributed.audit import AuditJob
    from differnet_ray.pipeline.stages import Maps
    from differnet_ray.results.audits import AuditPlan
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
        if not dry_run and (made_up := _made_up(job, reports, limits, webhooks)):
            done.append(made_up)
            if since and made_up["since"] and made_up["since"] <= str(since):  # that has taken them again
                job = replace(job, since=None)
        index = indexed(sources, naming, cache=None if dry_run else join(output, "_index"))
        if not models_in_use(models, list(index.counts), job.versions, n_transforms)[0]:
            raise ConfigError(no_models(models, index, naming))
        if dry_run:
            return [_foreseen(job, compared(index, job, write=False))]
        plan = planned(index, job)
        if plan is not None:
            done.append(_carried_out(plan, job, reports, limits, webhooks))
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


def _made_up(job: AuditJob, reports: str, limits: AlarmLimits, webhooks: Webhooks | None) -> dict[str, Any] | None:
    """Finishes the audit that was planned and is not done, if there is one."""
    from differnet_ray.results.audits import drop_plan, pending
    from differnet_ray.results.runs import published

    plan = pending(job.output)
    if plan is None:
        return None
    if not job.resume and (plan.run is None or published(job.output, plan.run) is None):
        drop_plan(job.output)
        return None
    click.echo(f"making up the audit {plan.audit_id} of the night {plan.dt}, which was not finished", err=True)
    return _carried_out(plan, job, reports, limits, webhooks)


def _carried_out(
    plan: AuditPlan, job: AuditJob, reports: str, limits: AlarmLimits, webhooks: Webhooks | None
) -> dict[str, Any]:
    """Scores, publishes, judges the night, writes its record and the pages, tells of it, and updates the ledger last."""
    from differnet_ray.cli.progress import Reporter
    from differnet_ray.distributed.audit import forms_of, scored
    from differnet_ray.pipeline.drift import drift_of_night
    from differnet_ray.pipeline.proposal_commands import proposals_of_night
    from differnet_ray.report.night_index import write_night_index
    from differnet_ray.report.night_report import page_of_night, write_night_report
    from differnet_ray.report.run_report import write_run_report
    from differnet_ray.results.audits import finish, write_record
    from differnet_ray.results.drift_table import verdicts_of, write_drift
    from differnet_ray.storage.locations import join

    forms = forms_of(plan, job.models)
    with Reporter("images") as reporter:
        run = scored(plan, forms, job, lambda progress: reporter.show(score_tasks(progress)))
    if run is not None:
        warn_clipped(job.output, run, forms)
        write_run_report(job.output, run["run_id"], models=job.models, target=join(reports, f"{run['run_id']}.html"))
    alarms, proposals, verdicts = list[dict[str, Any]](), list[dict[str, Any]](), Counter[str]()
    with suppress(FileNotFoundError):  # nothing has ever been published: there is no night to compare with
        found = drift_of_night(job.output, plan.dt, job.models, limits)
        write_drift(job.output, plan.dt, found.rows)
        alarms, verdicts = [alarm.as_json() for alarm in found.alarms], Counter(verdicts_of(found.rows).values())
        proposals = [one.as_json() for one in proposals_of_night(job.output, job.models, plan, run, found.rows, limits)]
    record = write_record(job.output, plan, run, page_of_night(reports, plan.dt), alarms, proposals, verdicts)
    write_night_report(job.output, plan.dt, reports, models=job.models)
    write_night_index(job.output, reports)
    if webhooks is not None and (alarms or not_scored(record) or webhooks.always):
        for problem in webhooks.tell(record):
            click.echo(f"WARNING: {problem}", err=True)
    finish(job.output, plan)
    return record


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


def audit_text(record: Mapping[str, Any]) -> str:
    """What an audit found, for people."""
    from differnet_ray.webhook_messages import proposal_text

    totals = {kind: sum(counts.values()) for kind, counts in record["changes"].items()}
    said = [f"{totals[kind]:,} {kind}" for kind in ("new", "changed", "again", "removed") if totals[kind] or kind == "new"]
    said[0] += f" ({totals['late']:,} late)" if totals["late"] else ""
    lines = [f"night {record['dt']}: {', '.join(said)}, of {record['n_listed']:,} listed"]
    if not record["is_whole"]:
        lines.append("Not all locations of earlier audits were listed: whether images are gone there is not known.")
    if record["counts"]:
        lines += ["", status_table(record), "", f"run {record['run_id']}"]
    if record.get("report"):
        lines.append(f"report {record['report']}")
    lines += [f"ALARM {alarm['text']}" for alarm in record.get("alarms", ())]
    for proposal in record.get("proposals", ()):
        lines += [proposal_text(proposal), *([f"    {proposal['command']}"] if proposal["command"] else [])]
    if record.get("unfinished"):
        lines.append(f"The audit {record['unfinished']} is not finished: the next one makes it up first.")
    return "\n".join(lines)
