"""What `audit` does with its night, once it is planned: score, judge, write the pages, tell, and update the ledger last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from differnet_ray.cli.score import not_scored, score_tasks, status_table, warn_clipped
from differnet_ray.limits import AlarmLimits

if TYPE_CHECKING:
    from differnet_ray.distributed.audit import AuditJob
    from differnet_ray.results.audits import AuditPlan
    from differnet_ray.webhook import Webhooks


def made_up(job: AuditJob, reports: str, limits: AlarmLimits, webhooks: Webhooks | None) -> dict[str, Any] | None:
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
    return carried_out(plan, job, reports, limits, webhooks)


def carried_out(plan: AuditPlan, job: AuditJob, reports: str, limits: AlarmLimits, webhooks: Webhooks | None) -> dict[str, Any]:
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
