"""What is proposed after a night: the rules on made rows, and the commands and manifests of a plant whose nights go wrong."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from differnet_ray.limits import AlarmLimits, KnownEvent
from differnet_ray.pipeline.proposals import (
    ACTIONS,
    CHECK_CAMERA,
    CHECK_UPLOAD,
    DRIFT_NIGHTS,
    LASTING,
    LOOK,
    RECALIBRATE,
    REFIT,
    Proposal,
    propose,
)
from differnet_ray.tables import DRIFT

DT = date(2026, 1, 31)
LIMITS = AlarmLimits()


def a_row(measure: str, alarm: str | None = None, *, line: str = "", dt: date = DT, **changes: Any) -> dict[str, Any]:
    """A row of `drift` of the screws."""
    row: dict[str, Any] = dict.fromkeys(DRIFT.schema.names)
    row |= {"dt": dt, "category": "screw", "attribute": "line" if line else "", "attribute_value": line, "measure": measure}
    row |= {
        "n_images": 100,
        "value": 0.01,
        "n_reference": 9,
        "effect": 0.5,
        "alarm": alarm,
        "verdict": "alarm" if alarm else "ok",
    }
    return row | changes


def proposed(*rows: dict[str, Any], before: list[dict[str, Any]] | None = None, limits: AlarmLimits = LIMITS) -> list[Proposal]:
    """Beside them two lines are healthy."""
    healthy = [a_row(measure, line=line) for measure in ("images", "score_median") for line in ("A", "B")]
    named = {(row["attribute_value"], row["measure"]) for row in rows}
    rest = [row for row in healthy if (row["attribute_value"], row["measure"]) not in named]
    return propose(DT, [*rows, *rest], before or [], limits)


def actions(found: list[Proposal]) -> list[tuple[str, str]]:
    return [(one.action, one.attribute_value) for one in found]


def nights_before(n: int, alarm: str | None = "tonight", measure: str = "score_median", **changes: Any) -> list[dict[str, Any]]:
    return [a_row(measure, alarm, dt=DT - timedelta(days=k + 1), **changes) for k in range(n)]


def test_a_healthy_or_muted_night_needs_nothing() -> None:
    assert proposed(a_row("images"), a_row("score_median")) == []
    assert proposed(a_row("score_median", "tonight", verdict="muted", effect=5.0)) == []


@pytest.mark.parametrize(
    ("measure", "action"),
    [
        ("images", CHECK_UPLOAD),
        ("unreadable_rate", CHECK_UPLOAD),
        ("missing_rate", CHECK_UPLOAD),
        ("brightness", CHECK_CAMERA),
        ("contrast", CHECK_CAMERA),
        ("sharpness", CHECK_CAMERA),
        ("anomalous_rate", LOOK),
        ("review_rate", LOOK),
        ("score_median", RECALIBRATE),
        ("score_q90", RECALIBRATE),
        ("outside_rate", RECALIBRATE),
    ],
)
def test_every_measure_that_alarms_leads_to_an_action(measure: str, action: str) -> None:
    (found,) = proposed(a_row(measure, "tonight"))
    assert (found.action, found.category, found.attribute) == (action, "screw", "")
    assert found.reason.startswith(measure)
    assert action in ACTIONS


def test_a_line_that_moved_while_others_did_not_is_named() -> None:
    rows = [a_row("brightness", "tonight", line="B"), a_row("brightness", line="A"), a_row("brightness", "tonight")]
    assert actions(proposed(*rows)) == [(CHECK_CAMERA, "B")]
    rows[1] |= {"alarm": "tonight", "verdict": "alarm"}
    assert actions(proposed(*rows)) == [(CHECK_CAMERA, "")]  # both lines: the category


def test_of_several_attributes_the_one_that_tells_most_is_named() -> None:
    cameras = [a_row("sharpness", line=str(n), attribute="camera") for n in range(4)]
    cameras[3] |= {"alarm": "tonight", "verdict": "alarm"}
    assert actions(proposed(a_row("sharpness", "tonight", line="B"), *cameras)) == [(CHECK_CAMERA, "3")]


def test_scores_that_move_a_little_are_calibrated_anew_unless_the_pictures_changed() -> None:
    assert actions(proposed(a_row("score_median", "tonight"))) == [(RECALIBRATE, "")]
    assert actions(proposed(a_row("score_median", "drift", drift=-0.6, effect=0.1))) == [(RECALIBRATE, "")]
    assert actions(proposed(a_row("score_median", "tonight"), a_row("contrast", "tonight"))) == [(CHECK_CAMERA, "")]


def test_scores_that_move_much_in_one_night_are_looked_at_first() -> None:
    (found,) = proposed(a_row("score_median", "tonight", effect=2.0))
    assert found.action == LOOK
    assert f"for {LASTING} nights, a refit" in found.reason
    both = proposed(a_row("score_median", "tonight", effect=2.0), a_row("anomalous_rate", "counts"))
    assert actions(both) == [(LOOK, "")]


@pytest.mark.parametrize("pictures", [[], [a_row("brightness", "tonight")]])
def test_scores_that_have_moved_much_for_some_nights_are_for_a_refit_whatever_the_reason(
    pictures: list[dict[str, Any]],
) -> None:
    moved = a_row("score_median", "tonight", effect=-2.0)
    for n in range(LASTING + 2):
        found = proposed(moved, *pictures, before=nights_before(n))
        assert (REFIT in {one.action for one in found}) == (n + 1 >= LASTING)
    refit = found[-1]
    assert refit.since == DT - timedelta(days=LASTING + 1)
    assert "-2 standard deviations" in refit.reason


def test_nights_count_that_follow_each_other_and_are_of_the_same_part() -> None:
    moved = a_row("score_median", "tonight", effect=2.0)
    interrupted = nights_before(5)
    interrupted[1] |= {"alarm": None}
    assert REFIT not in dict(actions(proposed(moved, before=interrupted)))
    assert REFIT not in dict(actions(proposed(moved, before=nights_before(5, line="B"))))
    assert REFIT not in dict(actions(proposed(moved, before=nights_before(5, measure="brightness"))))
    assert REFIT not in dict(actions(proposed(moved, before=nights_before(5, alarm="limit"))))
    apart = [row | {"dt": row["dt"] - timedelta(days=2)} for row in nights_before(5)]  # nothing came at the weekend
    assert REFIT in dict(actions(proposed(moved, before=apart)))


def test_a_large_slow_drift_has_lasted_already() -> None:
    (found,) = proposed(a_row("score_median", "drift", drift=1.4, effect=0.1))
    assert (found.action, found.since) == (REFIT, DT - timedelta(days=DRIFT_NIGHTS - 1))


def test_many_images_outside_of_the_calibration_scores_are_a_large_change() -> None:
    moved = a_row("outside_rate", "counts", value=0.5, effect=20.0)
    assert actions(proposed(moved)) == [(LOOK, "")]
    (found,) = proposed(moved, before=nights_before(LASTING))
    assert found.action == REFIT
    assert "50 % outside" in found.reason


def test_defects_however_many_and_for_how_long_are_looked_at_and_not_fitted_on() -> None:
    rows = [a_row("anomalous_rate", "counts", effect=30.0), a_row("score_q90", "tonight", effect=4.0)]
    rows.append(a_row("outside_rate", "counts", value=0.3))
    before = [row for one in rows for row in nights_before(9, "counts", one["measure"], value=one["value"])]
    for shown in (rows, rows[:2], rows[::2]):
        assert actions(proposed(*shown, before=before)) == [(LOOK, "")]


def test_a_known_event_explains_scores_that_moved() -> None:
    moved, day = a_row("score_median", "tonight", line="B"), DT - timedelta(days=3)
    limits = AlarmLimits(known_events=(KnownEvent(day=day, attribute="line", value="B", why="new camera"),))
    (found,) = proposed(moved, limits=limits)
    assert (found.action, found.attribute_value, found.since) == (REFIT, "B", day)
    assert actions(proposed(a_row("score_median", "tonight", line="A"), limits=limits)) == [(RECALIBRATE, "A")]
    long_ago = AlarmLimits(known_events=(KnownEvent(day=DT - timedelta(days=40)),))
    assert actions(proposed(moved, limits=long_ago)) == [(RECALIBRATE, "B")]


def test_a_limit_of_a_score_proposes_nothing() -> None:
    assert proposed(a_row("score_median", "limit", effect=None)) == []


def test_the_record_of_a_proposal_is_plain() -> None:
    found = Proposal("screw", "", "", REFIT, "why", since=DT).as_json()
    assert found == {
        "category": "screw",
        "attribute": "",
        "attribute_value": "",
        "action": "refit",
        "reason": "why",
        "command": None,
        "manifest": None,
        "since": "2026-01-31",
    }


def test_the_page_of_the_audit_has_a_row_for_every_action() -> None:
    page = (Path(__file__).parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")
    assert all(f"\n| `{action}` |" in page for action in ACTIONS)
