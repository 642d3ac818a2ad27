"""Audits: what one is once its images are known, and what is left of it. An audit that was killed goes on as it was planned.

OUTPUT/audit/lease.json                            who works on one
OUTPUT/audit/plan.json                             the audit in work: its night, models and options, and the ledger after it
OUTPUT/audit/plan/manifest/*.parquet               its images
OUTPUT/audit/nights/dt=YYYY-MM-DD/AUDIT_ID.json    the audits of a night that are done; with AUDIT_ID.no-category.csv
OUTPUT/audit/nights/dt=YYYY-MM-DD/AUDIT_ID.next-fit/CATEGORY.parquet    images that are proposed for a fit
OUTPUT/audit/audit.json                            the record of the newest one
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import quote

from differnet_ray.errors import StorageError
from differnet_ray.results.ledger import AUDIT_FOLDER, Comparison, Ledger, read_ledger, write_ledger
from differnet_ray.results.runs import UNPLACED, Run, plan_run
from differnet_ray.storage.files import delete, list_files, list_folders, read_bytes, write_bytes
from differnet_ray.storage.locations import join

PLAN, PLAN_FILE, NIGHTS, LEASE, NEWEST = "plan", "plan.json", "nights", "lease.json", "audit.json"
RECORD_VERSION = 1


@dataclass(frozen=True)
class AuditPlan:
    """An audit, before any of its images is read.

    Attributes:
        audit_id: its name.
        dt: the night, which is the day of its rows.
        since: what it takes again, as of `ledger.compare`.
        comparison: what it found in the archive.
        skipped: files of the archive that are not in the listing, by reason.
        listing_digest: of the images to score.
        models: category to (version, digest), those in use when it was planned.
        options: result-changing options of its run.
        ledger: as it will be after it.
        started_at: when it was planned, ISO 8601.
    """

    audit_id: str
    dt: date
    since: date | None
    comparison: Comparison
    skipped: Mapping[str, int]
    listing_digest: str
    models: Mapping[str, tuple[str, str]]
    options: Mapping[str, str]
    ledger: Ledger
    started_at: str

    @property
    def run(self) -> Run | None:
        """The scoring run of its images; None where there are none."""
        if not self.comparison.taken:
            return None
        return plan_run(
            dt=self.dt, listing_digest=self.listing_digest, models=self.models, options=self.options, skipped=self.skipped
        )

    def as_json(self) -> dict[str, Any]:
        """What `from_json` takes."""
        days = {"dt": str(self.dt), "since": self.since and str(self.since)}
        return asdict(self) | days | {"ledger": self.ledger.as_json()}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> AuditPlan:
        """The plan of `as_json`."""
        known = dict(values) | {
            "dt": date.fromisoformat(values["dt"]),
            "since": values["since"] and date.fromisoformat(values["since"]),
            "comparison": Comparison(**values["comparison"]),
            "models": {category: (version, digest) for category, (version, digest) in values["models"].items()},
            "ledger": Ledger.from_json(values["ledger"]),
        }
        return AuditPlan(**known)


def new_audit_id(dt: date) -> str:
    """A name that no other audit has."""
    return f"{dt:%Y%m%d}-{uuid.uuid4().hex[:12]}"


def lease_of_audits(output: str) -> str:
    """URI of the lease that an audit holds."""
    return join(output, AUDIT_FOLDER, LEASE)


def planned_images(output: str) -> str:
    """URI of the manifest of the audit in work."""
    return join(output, AUDIT_FOLDER, PLAN, "manifest")


def pending(output: str) -> AuditPlan | None:
    """The audit that was planned and is not done.

    Raises:
        StorageError: its plan is damaged.
    """
    uri = join(output, AUDIT_FOLDER, PLAN_FILE)
    try:
        plan = AuditPlan.from_json(json.loads(read_bytes(uri)))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{uri} is damaged ({error}): delete it, and the night is planned anew") from error
    if read_ledger(output).audit_id == plan.audit_id:  # killed after the last thing that counts
        drop_plan(output)
        return None
    return plan


def write_plan(output: str, plan: AuditPlan) -> None:
    """Begins an audit, whose manifest and ledger files are there: from now on, whoever comes finishes it."""
    write_bytes(join(output, AUDIT_FOLDER, PLAN_FILE), _json(plan.as_json()))


def drop_plan(output: str) -> None:
    """Removes a plan and its manifest."""
    delete(join(output, AUDIT_FOLDER, PLAN_FILE))
    delete(join(output, AUDIT_FOLDER, PLAN))


def write_record(
    output: str,
    plan: AuditPlan,
    run_record: Mapping[str, Any] | None,
    report: str,
    alarms: Sequence[Mapping[str, Any]] = (),
    proposals: Sequence[Mapping[str, Any]] = (),
    verdicts: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Records an audit whose night is judged, in its night and as the newest one; its pages and the ledger are left to do.

    Args:
        output: canonical URI of the results.
        plan: the audit.
        run_record: the content of the file of its run; None where there was no image to score.
        report: URI of the page of the night.
        alarms: of `pipeline.drift.Alarm.as_json`.
        proposals: what to do, of `pipeline.proposals.Proposal`.
        verdicts: verdict of a category (`drift_table.VERDICTS`) to how many have it.

    Returns:
        Its record.
    """
    record = {
        "schema_version": RECORD_VERSION,
        "audit_id": plan.audit_id,
        "dt": str(plan.dt),
        "since": plan.since and str(plan.since),
        "run_id": run_record and run_record["run_id"],
        "inputs": list(plan.ledger.inputs),
        "n_listed": sum(plan.comparison.listed.values()),
        "n_audited": plan.ledger.n_images,
        "is_whole": plan.comparison.is_whole,
        "listed": dict(plan.comparison.listed),
        "skipped": dict(plan.skipped),
        "changes": {kind: dict(counts) for kind, counts in plan.comparison.changes.items()},
        "counts": run_record["counts"] if run_record else {},
        "category_counts": run_record["category_counts"] if run_record else {},
        "report": report,
        "alarms": list(alarms),
        "proposals": list(proposals),
        "verdicts": dict(verdicts or {}),
        "started_at": plan.started_at,
        "finished_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }
    with suppress(FileNotFoundError):
        unplaced = read_bytes(f"{planned_images(output)}.{UNPLACED}")
        write_bytes(join(night_of(output, plan.dt), f"{plan.audit_id}.{UNPLACED}"), unplaced)
    write_bytes(join(night_of(output, plan.dt), f"{plan.audit_id}.json"), _json(record))
    write_bytes(join(output, AUDIT_FOLDER, NEWEST), _json(record))
    return record


def finish(output: str, plan: AuditPlan) -> None:
    """Once all else is done: updates the ledger, which is what makes an audit done."""
    write_ledger(output, plan.ledger)
    drop_plan(output)


def audited_nights(output: str) -> list[date]:
    """The nights that have been audited, the oldest first."""
    return [date.fromisoformat(name.removeprefix("dt=")) for name in list_folders(join(output, AUDIT_FOLDER, NIGHTS))]


def audits_of(output: str, dt: date) -> list[dict[str, Any]]:
    """The records of the audits of a night, the oldest first."""
    try:
        uris = [file.uri for file in list_files(night_of(output, dt)) if file.uri.endswith(".json")]
    except FileNotFoundError:
        return []
    return sorted((json.loads(read_bytes(uri)) for uri in uris), key=lambda record: str(record["finished_at"]))


def no_category_of(output: str, record: Mapping[str, Any]) -> str:
    """Where the images of an audit are named that have no category, or several."""
    return join(night_of(output, record["dt"]), f"{record['audit_id']}.{UNPLACED}")


def night_of(output: str, dt: date | str) -> str:
    """URI of the folder of a night's audits."""
    return join(output, AUDIT_FOLDER, NIGHTS, f"dt={dt}")


def next_fit_uri(output: str, plan: AuditPlan, category: str) -> str:
    """URI of the images that an audit proposes for the next fit of a category."""
    return join(night_of(output, plan.dt), f"{plan.audit_id}.next-fit", f"{quote(category, safe='')}.parquet")


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()
