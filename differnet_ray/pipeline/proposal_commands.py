"""BRIDGE: what is proposed after a night, with the commands that do it, and for a refit the manifest of its images."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from differnet_ray.limits import AlarmLimits
from differnet_ray.pipeline.attribution import ALARM
from differnet_ray.pipeline.proposals import LOOK, RECALIBRATE, REFIT, SCORES, Proposal, Row, propose
from differnet_ray.results.audits import AuditPlan, next_fit_uri
from differnet_ray.results.drift_table import drift_before
from differnet_ray.results.next_fit import FEWEST, NIGHTS, Wanted, write_next_fit
from differnet_ray.store.model_store import ModelStore

_OF_BEFORE = ("dt", "category", "attribute", "attribute_value", "measure", "value", "alarm")
INNER = (0.05, 0.95)  # quantiles of the calibration scores


def proposals_of_night(
    output: str, models: str, plan: AuditPlan, run_record: Mapping[str, Any] | None, rows: pa.Table, limits: AlarmLimits
) -> list[Proposal]:
    """What to do about a night that was judged; writes the manifests of the refits that are proposed.

    Args:
        output: canonical URI of the results.
        models: canonical URI of the model store.
        plan: the audit.
        run_record: of its run; None where there was none.
        rows: `tables.DRIFT` of its night.
        limits: what was asked for.
    """
    alarmed = pc.unique(rows.filter(pc.field("verdict") == ALARM)["category"])
    tonight = rows.filter(pc.is_in(rows["category"], value_set=alarmed)).to_pylist()
    if not tonight:
        return []
    before = drift_before(output, plan.dt, NIGHTS).select(_OF_BEFORE).filter(pc.field("measure").isin(SCORES)).to_pylist()
    categories = run_record["models"] if run_record is not None else {}
    proposals = []
    for proposal in propose(plan.dt, tonight, before, limits):
        run_id = run_record["run_id"] if run_record is not None and proposal.category in categories else None
        if proposal.action == LOOK and run_id is not None:
            asked = {"output": output, "run-id": run_id, "models": models, "images": "100"}
            proposal = replace(proposal, command=_command("report", asked))
        elif proposal.action == RECALIBRATE and run_id is not None:
            asked = {"models": models, "category": proposal.category, "output": output, "run-id": run_id}
            proposal = replace(proposal, command=_command("calibrate", asked | {"confirmed": "confirmed.csv"}))
        elif proposal.action == REFIT:
            proposal = _with_manifest(output, ModelStore(models), plan, proposal, tonight)
        proposals.append(proposal)
    return proposals


def _with_manifest(output: str, store: ModelStore, plan: AuditPlan, proposal: Proposal, tonight: Sequence[Row]) -> Proposal:
    """The command of a refit, and the images that it is of."""
    rows = [row for row in tonight if row["category"] == proposal.category]
    part = proposal.attribute, proposal.attribute_value
    wanted = Wanted(
        category=proposal.category,
        dt=plan.dt,
        since=max(proposal.since or plan.dt, plan.dt - timedelta(days=NIGHTS - 1)),
        changed=part,
        attributes=tuple(sorted({row["attribute"] for row in rows} - {""})),
        inner=_inner_scores(store, proposal.category, rows),
    )
    uri = next_fit_uri(output, plan, proposal.category)
    n, n_changed = write_next_fit(output, uri, wanted)
    if not n:
        return replace(proposal, reason=f"{proposal.reason}. There are fewer than {FEWEST} images to propose for it yet")
    made_of = f"{n_changed} of {n} images are of nights since {wanted.since}, the less unusual ones of each night"
    if n > n_changed:
        made_of += f", the others unflagged ones of the last {NIGHTS} nights"
    check = "look through them, and fit with the options of the model in use (`models show`)"
    asked = {"manifest": uri, "models": store.uri, "category": proposal.category}
    return replace(
        proposal,
        reason=f"{proposal.reason}. {made_of}: {check}",
        command=_command("fit", asked),
        manifest=uri,
        since=wanted.since,
    )


def _inner_scores(store: ModelStore, category: str, rows: Sequence[Row]) -> tuple[float, float] | None:
    """The middle of the calibration scores of the model that scored; None where it is gone."""
    versions = sorted(row["model_version"] for row in rows if row["model_version"])
    version = versions[-1].split(",")[-1] if versions else None
    if version is None or version not in store.versions(category):
        return None
    low, high = np.quantile(store.calibration(category, version)["anomaly_score"].to_numpy(), INNER)
    return float(low), float(high)


def _command(verb: str, options: Mapping[str, str]) -> str:
    return shlex.join(["differnet-ray", verb, *(f"--{name}={value}" for name, value in options.items())])
