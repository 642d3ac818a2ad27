"""The Ray part of an audit: the archive against the ledger, in a task, and the scoring run of what is new or changed.

    index -> compare (a task) -> plan, with the manifest of its images -> score_archive

What is planned is carried out as it was planned, whatever the archive and the model store are by then: a night that was killed
has its images once, in its own day.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import partial
from typing import Any, cast

import pyarrow as pa

from differnet_ray.config import ImageForm
from differnet_ray.distributed.index import Index, index_manifest
from differnet_ray.distributed.score import ScoreJob, ScoreProgress, models_in_use, run_options, score_archive
from differnet_ray.errors import ConfigError
from differnet_ray.pipeline.stages import Maps
from differnet_ray.results.audits import AuditPlan, audits_of, drop_plan, new_audit_id, planned_images, write_plan
from differnet_ray.results.ledger import Comparison, Ledger, compare, drop_unused, outermost, read_ledger
from differnet_ray.results.publish import publishing
from differnet_ray.results.runs import published, write_manifest


@dataclass(frozen=True)
class AuditJob:
    """What an audit is asked for, as values.

    Attributes:
        inputs: canonical URIs of the archive.
        models, output: canonical URIs of the model store and of the results.
        dt: the night.
        since: images that were audited in this night or later are taken again; None takes none.
        versions: category to version, where it is not the latest.
        n_transforms, maps, overlays, actors, resume: as of `ScoreJob`.
    """

    inputs: tuple[str, ...]
    models: str
    output: str
    dt: date
    since: date | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    n_transforms: int | None = None
    maps: Maps = "flagged"
    overlays: bool = False
    actors: tuple[int, int] | None = None
    resume: bool = True


def compared(index: Index, job: AuditJob, *, write: bool) -> Comparison:
    """Compares an archive with the ledger.

    Args:
        index: of the archive.
        job: the audit.
        write: stage the images that are to be scored, and the ledger as it will be.
    """
    return index.ask(partial(_compared, job, read_ledger(job.output), write))


def _compared(job: AuditJob, ledger: Ledger, write: bool, listing: pa.Table, unplaced: pa.Table) -> Comparison:
    comparison, taken = compare(job.output, ledger, listing, dt=job.dt, inputs=job.inputs, since=job.since, write=write)
    if write:
        write_manifest(planned_images(job.output), taken, unplaced)
    return comparison


def planned(index: Index, job: AuditJob) -> AuditPlan | None:
    """Plans an audit, from which on it will be carried out.

    Args:
        index: of the archive.
        job: the audit.

    Returns:
        The plan; None where the night has been audited and there is nothing to do.

    Raises:
        ConfigError: a model has fewer transforms.
    """
    drop_plan(job.output)  # the manifest of one that was killed before it was a plan
    ledger, comparison = read_ledger(job.output), compared(index, job, write=True)
    digest, in_use = "", dict[str, tuple[str, str]]()
    if comparison.taken:
        images = index_manifest(planned_images(job.output), index.skipped)
        digest = images.digest
        in_use, _ = models_in_use(job.models, list(images.counts), job.versions, job.n_transforms)
    audit_id = new_audit_id(job.dt)
    plan = AuditPlan(
        audit_id=audit_id,
        dt=job.dt,
        since=job.since,
        comparison=comparison,
        skipped=index.skipped,
        listing_digest=digest,
        models=in_use,
        options=run_options(job.n_transforms, job.maps, overlays=job.overlays),
        ledger=Ledger(
            audit_id=audit_id,
            dt=max(job.dt, ledger.dt or job.dt),
            inputs=outermost([*ledger.inputs, *job.inputs]),
            files=comparison.files,
            n_images=comparison.n_images,
        ),
        started_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
    )
    if _is_done(plan, job.output):
        drop_plan(job.output)
        drop_unused(job.output, ledger)
        return None
    write_plan(job.output, plan)
    return plan


def _is_done(plan: AuditPlan, output: str) -> bool:
    """Whether the night has an audit already, and one of these very images where there are any."""
    done = audits_of(output, plan.dt)
    runs = {record["run_id"] for record in done}
    return bool(done) and not plan.comparison.changes["removed"] and (plan.run is None or plan.run.run_id in runs)


def forms_of(plan: AuditPlan, models: str) -> dict[str, ImageForm]:
    """What the models of an audit want of an image.

    Raises:
        ConfigError: the store has other models than the audit was planned with.
        ModelStoreError: it lacks one.
    """
    versions = {category: version for category, (version, _) in plan.models.items()}
    in_use, forms = models_in_use(models, list(versions), versions)
    if in_use != plan.models:
        raise ConfigError(
            f"the audit {plan.audit_id} was planned with other models than {models} has: give it the store that it was "
            "planned with, or plan it anew by --no-resume"
        )
    return forms


def scored(
    plan: AuditPlan, forms: Mapping[str, ImageForm], job: AuditJob, on_progress: Callable[[ScoreProgress], None]
) -> dict[str, Any] | None:
    """Scores the images of an audit and publishes their rows, unless that has been done.

    Args:
        plan: the audit.
        forms: of `forms_of`.
        job: where, and by how many actors; what changes a result is the plan's.
        on_progress: as of `score_archive`.

    Returns:
        The content of runs/RUN_ID.json; None where there is nothing to score.
    """
    run = plan.run
    if run is None:
        return None
    done = published(job.output, run)
    if done is not None:
        with publishing(job.output, run.dt):  # puts right what a kill has left
            return done
    n_transforms = plan.options["n_transforms"]
    return score_archive(
        ScoreJob(
            run=replace(run, started_at=datetime.fromisoformat(plan.started_at)),
            index=index_manifest(planned_images(job.output), dict(plan.skipped)),
            models=job.models,
            output=job.output,
            n_transforms=None if n_transforms == "all" else int(n_transforms),
            maps=cast(Maps, plan.options["maps"]),
            overlays="overlays" in plan.options,
            actors=job.actors,
            resume=job.resume,
        ),
        forms,
        on_progress,
    )
