"""Commands and manifests of what is proposed after a night: that they are ones which exist, and what they name."""

from __future__ import annotations

import shlex
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pytest
from published_nights import an_image, publish_night
from stored_models import a_model

from differnet_ray import cli
from differnet_ray.archives.index import image_id
from differnet_ray.archives.manifest import list_images, select
from differnet_ray.limits import AlarmLimits
from differnet_ray.pipeline.drift import drift_of_night
from differnet_ray.pipeline.proposal_commands import proposals_of_night
from differnet_ray.pipeline.proposals import LASTING, LOOK, RECALIBRATE, REFIT, Proposal
from differnet_ray.results.audits import AuditPlan
from differnet_ray.results.drift_table import write_drift
from differnet_ray.results.ledger import Comparison, Ledger
from differnet_ray.storage.locations import canonical
from differnet_ray.store.model_store import ModelStore
from differnet_ray.tables import CALIBRATION

FIRST = date(2026, 1, 1)
NAME = "100% wool's $(echo)"  # a category is a name, and no part of a command
LIMITS = AlarmLimits(false_alarms_per_year=4)


def a_plan(dt: date) -> AuditPlan:
    return AuditPlan(
        audit_id=f"{dt:%Y%m%d}-0123456789ab",
        dt=dt,
        since=None,
        comparison=Comparison({}, {}, True, 0, {}, 0),
        skipped={},
        listing_digest="",
        models={},
        options={},
        ledger=Ledger(),
        started_at="2026-01-01T00:00:00+00:00",
    )


class Wool:
    """A category on two lines, whose nights are published, judged and followed by what is proposed."""

    def __init__(self, folder: str) -> None:
        self.output, self.models = canonical(f"{folder}/results of 50%"), canonical(f"{folder}/models")
        self.rng = np.random.default_rng(0)
        uris = [f"s3://plant/good/{n}.png" for n in range(200)]
        scores = np.exp(self.rng.standard_normal(200))
        columns = {"image_id": [image_id(uri) for uri in uris], "uri": uris, "anomaly_score": scores}
        columns |= {"score_std": scores / 10, "group": np.arange(200)}
        model = a_model(NAME, calibration=pa.table(columns, schema=CALIBRATION.schema))
        decision = replace(model.decision, threshold=12.0, review_threshold=6.0, n_images=200, n_groups=200)
        self.version = ModelStore(self.models).publish(replace(model, decision=decision))

    def night(self, day: int, factor: float = 1.0, line: str = "AB") -> list[Proposal]:
        dt, rows = FIRST + timedelta(days=day), []
        for n in range(400):
            score = float(np.exp(self.rng.standard_normal())) * (factor if "AB"[n % 2] in line else 1.0)
            status = "anomalous" if score >= 12 else "review" if score >= 6 else "ok"
            row = an_image(f"s3://plant/{dt}/{n}.png", score, status=status, category=NAME, model_version=self.version)
            rows.append(row | {"attributes": [("line", "AB"[n % 2])]})
        record = publish_night(self.output, dt, rows) | {"models": {NAME: self.version}}
        found = drift_of_night(self.output, dt, self.models, LIMITS)
        write_drift(self.output, dt, found.rows)
        return proposals_of_night(self.output, self.models, a_plan(dt), record, found.rows, LIMITS)


def parsed(command: str) -> dict[str, Any]:
    """The values of the options, as the verb that exists reads them."""
    program, verb, *arguments = shlex.split(command)
    assert program == "differnet-ray"
    found: click.Command = cli.main.commands[verb]
    return found.make_context(verb, arguments).params


@pytest.fixture(scope="module")
def wool(tmp_path_factory: pytest.TempPathFactory) -> Wool:
    """After seven healthy nights, of which nothing was proposed."""
    plant = Wool(str(tmp_path_factory.mktemp("wool")))
    assert [plant.night(day) for day in range(8)] == [[]] * 8
    return plant


def test_scores_of_a_line_that_moved_and_stay_lead_from_looking_to_a_refit(wool: Wool) -> None:
    nights = [wool.night(8 + n, np.e**2, "B") for n in range(LASTING)]
    for found in nights[:-1]:
        assert {one.action for one in found} == {LOOK}
        assert all(one.attribute_value == "B" for one in found)
        asked = parsed(str(found[0].command))
        assert (asked["output"], asked["models"]) == (wool.output, wool.models)
    (refit,) = [one for one in nights[-1] if one.action == REFIT]
    assert (refit.category, refit.attribute, refit.attribute_value) == (NAME, "line", "B")
    assert refit.since == FIRST + timedelta(days=8)
    asked = parsed(str(refit.command))
    assert (asked["manifest"], asked["models"], asked["categories"]) == (refit.manifest, wool.models, (NAME,))
    listing = select(list_images([asked["manifest"]]), categories=asked["categories"], split="train", defect="good")
    rows = [(row["uri"].split("/")[3], dict(row["attributes"])["line"]) for row in listing.table.to_pylist()]
    assert f"{sum(line == 'B' for _, line in rows)} of {len(rows)} images are of nights since" in refit.reason
    assert {night for night, line in rows if line == "B"} == {str(FIRST + timedelta(days=8 + n)) for n in range(LASTING)}
    assert {night for night, line in rows if line == "A"} == {str(FIRST + timedelta(days=n)) for n in range(8 + LASTING)}


def test_scores_that_moved_a_little_lead_to_calibrate(wool: Wool) -> None:
    (found,) = [one for one in wool.night(20, np.e**0.8) if one.action == RECALIBRATE]
    asked = parsed(str(found.command))
    assert (asked["output"], asked["categories"], asked["confirmed"]) == (wool.output, (NAME,), "confirmed.csv")
    assert asked["run_id"].startswith("20260121-")


def test_what_no_run_of_the_audit_is_of_has_no_command(wool: Wool) -> None:
    dt = FIRST + timedelta(days=20)
    rows = drift_of_night(wool.output, dt, wool.models, LIMITS).rows
    found = proposals_of_night(wool.output, wool.models, a_plan(dt), None, rows, LIMITS)
    assert found
    assert {one.command for one in found} == {None}
