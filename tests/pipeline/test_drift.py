"""The drift of a night: published rows of several nights, a model store, and what is said of the last night."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plant_nights import FIRST, LIMITS, Change, Plant, only

from differnet_ray.errors import ConfigError
from differnet_ray.limits import MEASURES, AlarmLimits, KnownEvent, Muted
from differnet_ray.pipeline.drift import NightDrift, drift_of_night
from differnet_ray.results.drift_table import drift_before
from differnet_ray.storage.locations import canonical
from differnet_ray.tables import DRIFT, conform

HEALTHY = 9


def alarmed(found: NightDrift, verdict: str = "alarm") -> set[tuple[str, str, str]]:
    """Category, attribute value and measure of the rows with a verdict."""
    rows = [row for row in found.rows.to_pylist() if row["verdict"] == verdict]
    return {(row["category"], row["attribute_value"], row["measure"]) for row in rows}


def row_of(found: NightDrift, category: str, value: str, measure: str) -> dict[str, Any]:
    """The row of a cell and measure."""
    key = (category, value, measure)
    (row,) = [row for row in found.rows.to_pylist() if (row["category"], row["attribute_value"], row["measure"]) == key]
    return row


@pytest.fixture(scope="module")
def healthy_plant(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plant, list[NightDrift]]:
    """A plant after some healthy nights, and what was said of each."""
    plant = Plant(tmp_path_factory.mktemp("plant"))
    return plant, [plant.night(day) for day in range(HEALTHY)]


def test_healthy_nights_are_silent_from_the_first_on(healthy_plant: tuple[Plant, list[NightDrift]]) -> None:
    for night in healthy_plant[1]:
        assert night.alarms == ()
        assert set(night.rows["verdict"].to_pylist()) <= {"ok", "no_reference"}


def test_rows_have_the_declared_schema_and_are_read_as_written(healthy_plant: tuple[Plant, list[NightDrift]]) -> None:
    plant, nights = healthy_plant
    for night in nights:
        conform(night.rows, DRIFT.schema)
    before = drift_before(plant.output, FIRST + timedelta(days=HEALTHY), 100)
    assert before.num_rows >= sum(night.rows.num_rows for night in nights)
    last = drift_before(plant.output, FIRST + timedelta(days=3), 1)
    assert last.sort_by("measure").num_rows == nights[2].rows.num_rows
    assert drift_before(canonical(str(Path(plant.output.removeprefix("file://")) / "none")), FIRST, 9).num_rows == 0


def test_what_is_observed_is_what_was_published(healthy_plant: tuple[Plant, list[NightDrift]]) -> None:
    found = healthy_plant[1][0]
    whole, lines = row_of(found, "lid", "", "images"), [row_of(found, "lid", line, "images") for line in "AB"]
    assert whole["value"] == sum(line["value"] for line in lines)
    assert row_of(found, "lid", "", "score_median")["value"] == pytest.approx(1, abs=0.3)
    assert "name" not in found.rows["attribute"].to_pylist()  # an attribute of its own for every image


@pytest.mark.parametrize("n_images", [12, 40])
def test_parts_of_a_few_images_do_not_alarm_of_themselves(n_images: int, tmp_path: Path) -> None:
    plant = Plant(tmp_path, ("lid",), n_images=n_images)
    for day in range(12):
        assert plant.night(day).alarms == ()


def test_before_there_are_nights_the_calibration_set_is_the_reference(
    healthy_plant: tuple[Plant, list[NightDrift]],
) -> None:
    first, last = healthy_plant[1][0], healthy_plant[1][-1]
    assert row_of(first, "screw", "", "score_median")["n_reference"] == 0
    assert row_of(first, "screw", "", "score_median")["p_value"] is not None
    assert row_of(first, "screw", "", "images")["verdict"] == "no_reference"
    assert "7 make a reference" in row_of(first, "screw", "", "images")["reason"]
    assert row_of(last, "screw", "", "score_median")["n_reference"] == HEALTHY - 1


def judged(plant: Plant, change: Change, limits: AlarmLimits = LIMITS, day: int = HEALTHY) -> NightDrift:
    """A night that differs, after the healthy ones; another test may have made the same day, its rows are replaced."""
    folder = Path(plant.output.removeprefix("file://"))
    for kept in ("scores", "drift"):
        for path in (folder / kept).glob(f"dt={FIRST + timedelta(days=day)}/**/*.parquet"):
            path.unlink()
    for path in (folder / "runs").glob(f"{FIRST + timedelta(days=day):%Y%m%d}-*"):
        path.unlink()
    return plant.night(day, change, limits)


def test_scores_that_shift_on_one_line_name_the_line(healthy_plant: tuple[Plant, list[NightDrift]]) -> None:
    found = judged(healthy_plant[0], only("screw", "B", score=lambda x: x * np.e**2))
    assert ("screw", "B", "score_median") in alarmed(found)
    assert {(category, value) for category, value, _ in alarmed(found)} <= {("screw", "B"), ("screw", "")}
    assert any(alarm.text.startswith("screw, line B: ") for alarm in found.alarms)


def test_a_new_defect_is_more_anomalous_images_than_the_calibration_set_explains(
    healthy_plant: tuple[Plant, list[NightDrift]],
) -> None:
    found = judged(healthy_plant[0], only("lid", score=lambda x: 50.0, share=0.3))
    assert ("lid", "", "anomalous_rate") in alarmed(found)
    assert {category for category, _, _ in alarmed(found)} == {"lid"}
    row = row_of(found, "lid", "", "anomalous_rate")
    assert row["alarm"] == "counts"
    assert "expected" in row["reason"]


def test_a_broken_upload_is_unreadable_images(healthy_plant: tuple[Plant, list[NightDrift]]) -> None:
    found = judged(healthy_plant[0], only("screw", error="unreadable", share=0.5))
    assert ("screw", "", "unreadable_rate") in alarmed(found)
    assert {category for category, _, _ in alarmed(found)} == {"screw"}


def test_a_line_that_sends_nothing_is_missed(healthy_plant: tuple[Plant, list[NightDrift]]) -> None:
    found = judged(healthy_plant[0], only("lid", "A", gone=True))
    assert ("lid", "A", "images") in alarmed(found)
    assert ("lid", "B", "images") not in alarmed(found)
    assert row_of(found, "lid", "A", "images")["n_images"] == 0


def test_a_limit_holds_whatever_is_usual_and_a_mute_keeps_it_in_the_table(
    healthy_plant: tuple[Plant, list[NightDrift]],
) -> None:
    limits = replace(LIMITS, at_most={"score_median": 0.5}, muted=(Muted("lid", why="a new supplier"),))
    found = judged(healthy_plant[0], only("lid"), limits)
    assert ("screw", "", "score_median") in alarmed(found)
    assert ("lid", "", "score_median") in alarmed(found, "muted")
    assert row_of(found, "lid", "", "score_median")["reason"].endswith("muted: a new supplier")


def test_a_known_event_begins_a_new_reference(healthy_plant: tuple[Plant, list[NightDrift]]) -> None:
    event = KnownEvent("screw", measure="images", day=FIRST + timedelta(days=HEALTHY))
    change = only("screw", gone=True, share=0.7)
    assert ("screw", "", "images") in alarmed(judged(healthy_plant[0], change))
    found = judged(healthy_plant[0], change, replace(LIMITS, known_events=(event,)))
    assert not any(measure == "images" for _, _, measure in alarmed(found))


def test_one_bad_night_does_not_hide_the_next(healthy_plant: tuple[Plant, list[NightDrift]]) -> None:
    plant, change = healthy_plant[0], only("lid", score=lambda x: x * 3)
    first, second = judged(plant, change), judged(plant, change, day=HEALTHY + 1)
    assert ("lid", "", "score_median") in alarmed(first) & alarmed(second)
    assert row_of(second, "lid", "", "score_median")["n_reference"] == HEALTHY  # not the bad one


def test_the_same_night_gives_the_same_rows(healthy_plant: tuple[Plant, list[NightDrift]]) -> None:
    plant = healthy_plant[0]
    dt = FIRST + timedelta(days=HEALTHY - 1)
    assert drift_of_night(plant.output, dt, plant.models, LIMITS).rows.equals(healthy_plant[1][-1].rows)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"false_alarms_per_year": 0}, "false_alarms_per_year"),
        ({"at_most": {"brightnes": 3}}, "at_most"),
        ({"known_events": [{"day": "2026-01-31"}]}, "known_events.day"),
        ({"muted": [{"categories": "lid"}]}, "muted key"),
        ({"fewest": 3}, "limits key"),
        ({"smallest_shift": "much"}, "limits"),
    ],
)
def test_limits_that_cannot_be_meant_are_named(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        AlarmLimits.from_dict(values)


def test_the_page_of_the_audit_names_every_measure_and_its_limits_are_taken() -> None:
    page = (Path(__file__).parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")
    assert all(f"`{measure}`" in page for measure in MEASURES)
    limits = AlarmLimits.from_dict(tomllib.loads(page.split("```toml")[1].split("```")[0]))
    assert limits.muted_by("lid", "", "", "sharpness", date(2026, 2, 1)) is not None
    assert limits.muted_by("lid", "", "", "sharpness", date(2026, 3, 1)) is None


def test_limits_are_read_from_plain_values() -> None:
    day = date(2026, 1, 31)
    limits = AlarmLimits.from_dict({"smallest_ratio": 2, "known_events": [{"category": "lid", "day": day}], "muted": []})
    assert limits.reference_from("lid", "line", "A", "contrast") == day
    assert limits.reference_from("screw", "", "", "contrast") == date.min
