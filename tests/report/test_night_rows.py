"""Thousands of categories on the page of a night, and the verdict of each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from night_pages import cell, rows_of, section, sentence
from plant_nights import FIRST

from differnet_ray.report.night_report import write_night_report
from differnet_ray.report.night_rows import FEWEST_ROWS, MATRIX_ROWS
from differnet_ray.report.page import LISTED
from differnet_ray.results.audits import night_of
from differnet_ray.results.drift_table import verdicts_of, write_drift
from differnet_ray.storage.files import write_bytes
from differnet_ray.storage.locations import canonical, join
from differnet_ray.tables import DRIFT


def a_row(category: str, measure: str, dt: date, verdict: str, value: float) -> dict[str, Any]:
    none = dict.fromkeys(DRIFT.schema.names)
    alarm = {"alarm": "counts", "reason": f"{measure} of {category}"} if verdict == "alarm" else {}
    row = {"dt": dt, "category": category, "attribute": "", "attribute_value": "", "measure": measure, "n_images": 9}
    reference = {"n_reference": 9, "reference": 1.0, "reference_spread": 0.1, "p_value": 0.5, "model_version": "v1"}
    return none | row | reference | {"value": value, "verdict": verdict} | alarm


def many(output: str, categories: Sequence[str], nights: int, sick: set[str]) -> date:
    """Rows of `drift` of some nights and many categories, some of which alarm in the last two; returns the last night."""
    measures = ("images", "anomalous_rate")
    of_healthy = pa.Table.from_pylist([a_row(c, m, FIRST, "ok", 1.0) for c in categories for m in measures], DRIFT.schema)
    rows = [a_row(c, m, FIRST, "alarm" if c in sick else "ok", 2.0) for c in categories for m in measures]
    of_sick = pa.Table.from_pylist(rows, DRIFT.schema)
    for night in range(nights):
        dt = FIRST + timedelta(days=night)
        table = of_healthy if night < nights - 2 else of_sick
        write_drift(output, dt, table.set_column(0, DRIFT.schema.field("dt"), pa.array([dt] * table.num_rows)))
    return FIRST + timedelta(days=nights - 1)


@pytest.mark.parametrize("alarming", [3, 5000])
def test_thousands_of_categories_make_a_page_of_bounded_size_and_nothing_is_left_out_in_silence(
    tmp_path: Path, alarming: int
) -> None:
    output = canonical(str(tmp_path))
    categories = [f"category with a name of usual length {n:04d}" for n in range(5000)]
    dt = many(output, categories, 28, set(categories[:alarming]))
    taken = dict.fromkeys(categories, 7)
    changes = {"new": taken, "changed": {}, "again": {}, "late": {}, "removed": {}}
    record = {"audit_id": "a", "dt": str(dt), "run_id": None, "changes": changes, "counts": {"ok": 35_000}, "inputs": []}
    record |= {"is_whole": True, "skipped": {}, "n_listed": 35_000, "n_audited": 35_000, "alarms": []}
    record |= {"started_at": "2026-01-28T00:00:00+00:00", "finished_at": "2026-01-28T01:00:00+00:00"}
    write_bytes(join(night_of(output, dt), "a.json"), json.dumps(record).encode())
    target = Path(write_night_report(output, dt, join(output, "reports")).removeprefix("file://"))
    page = target.read_text(encoding="utf-8")
    assert len(page) < 4_000_000
    assert f"{2 * alarming:,} alarms in {alarming:,} of 5,000 categories" in sentence(page)
    n_rows = FEWEST_ROWS if alarming < FEWEST_ROWS else MATRIX_ROWS
    assert len(rows_of(page, "matrix")) == n_rows
    assert f"{5000 - n_rows:,} others" in page
    lines = rows_of(page, "category-table")
    assert len(lines) == LISTED
    assert all(">alarm<" in row for row in lines[:3])
    assert f"{5000 - LISTED:,} more categories" in page
    assert cell(page.split(f"{5000 - LISTED:,} more categories</th>")[1].split("</tr>")[0], "New") == f"{7 * (5000 - LISTED):,}"
    n_drawn = section(page, "alarms").count("<figcaption>")
    n_further = len(rows_of(page, "alarm-table"))
    if alarming == 3:
        assert n_drawn + n_further == 2 * alarming
    else:
        assert n_drawn == 40
        assert n_further == LISTED
        assert f"{2 * alarming - 40 - LISTED:,} more are not on this page" in page


def test_a_category_is_as_its_gravest_part_and_without_scores_it_is_not_judged() -> None:
    def verdict_of(*rows: tuple[str, str, float, str | None]) -> str:
        made = [
            a_row("lid", measure, FIRST, verdict, value) | {"model_version": model} for measure, verdict, value, model in rows
        ]
        return verdicts_of(pa.Table.from_pylist(made, schema=DRIFT.schema))["lid"]

    ok = ("score_median", "ok", 1.0, "v1")
    images = ("images", "ok", 9.0, None)
    assert verdict_of(images, ok) == "ok"
    assert verdict_of(images) == "no_reference"
    assert verdict_of(images, ok, ("contrast", "muted", 1.0, None)) == "muted"
    assert verdict_of(("contrast", "muted", 1.0, None), ("images", "alarm", 9.0, None)) == "alarm"
    assert verdict_of(("images", "ok", 0.0, None)) == "no_images"
    assert verdict_of(("images", "alarm", 0.0, None)) == "alarm"
