"""The record of an imaginary audit."""

from __future__ import annotations

from datetime import date
from typing import Any

from differnet_ray.pipeline.drift import Alarm
from differnet_ray.pipeline.proposals import Proposal


def an_alarm(category: str = "screw", reason: str = "31 of 400 images anomalous", **changes: Any) -> Alarm:
    values = {"attribute": "line", "attribute_value": "B", "measure": "anomalous_rate", "alarm": ("counts",)}
    values |= {"value": 0.0775, "reference": 0.01, "p_value": 1e-9, "n_images": 400, "reason": reason}
    return Alarm(category, **values | changes)


def a_proposal(category: str = "screw", **changes: Any) -> Proposal:
    values: dict[str, Any] = {"attribute": "", "attribute_value": "", "action": "refit", "reason": "it moved"}
    values |= {"command": f"differnet-ray fit --category={category}", "since": date(2026, 1, 30)}
    return Proposal(category, **values | changes)


def a_record(alarms: list[Alarm], proposals: list[Proposal] | None = None, **changes: Any) -> dict[str, Any]:
    """As `results.audits.write_record` returns it."""
    record = {
        "schema_version": 1,
        "audit_id": "20260131-0123456789ab",
        "dt": "2026-01-31",
        "run_id": "20260131-aaaa",
        "listed": {"screw": 400},
        "skipped": {},
        "changes": {"new": {"screw": 400}},
        "counts": {"ok": 369, "anomalous": 31},
        "category_counts": {"screw": {"ok": 369, "anomalous": 31}},
        "report": "s3://plant/results/reports/20260131-aaaa.html",
        "alarms": [alarm.as_json() for alarm in alarms],
        "proposals": [proposal.as_json() for proposal in proposals or []],
    }
    return record | changes
