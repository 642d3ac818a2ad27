"""A measure over the nights is drawn inside its axes, whatever its values are."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest

from differnet_ray.report.night_chart import NightChart, night_chart, written

NIGHTS = [date(2026, 1, 1) + timedelta(days=n) for n in range(6)]


def drawn(values: list[float | None], measure: str = "score_median", **tonight: Any) -> NightChart:
    known = {"measure": measure, "verdict": "ok", "model_version": "v1", "reference": 1.0, "reference_spread": 1.1}
    rows = {dt: known | {"value": value} for dt, value in zip(NIGHTS, values, strict=True) if value is not None}
    rows[NIGHTS[-1]] |= tonight
    chart = night_chart(NIGHTS, rows)
    assert chart is not None
    for point in chart.points:
        assert chart.left <= point.x <= chart.right
        assert chart.top <= point.y <= chart.bottom
    assert all(chart.top <= tick.at <= chart.bottom for tick in chart.y_ticks)
    return chart


def test_higher_values_are_higher_and_tonight_is_the_last_point() -> None:
    chart = drawn([1.0, 1.1, 0.9, 1.0, 1.0, 2.0])
    assert [point.kind for point in chart.points] == ["ok"] * 5 + ["tonight"]
    assert chart.points[5].y < chart.points[1].y < chart.points[0].y < chart.points[2].y
    assert chart.points[5].label == "2026-01-06: 2, ok"
    assert len(chart.lines) == 1


def test_the_band_is_two_standard_deviations_or_their_factor() -> None:
    assert drawn([1.0] * 6).usual == f"{1.1**-2:.4g} to {1.1**2:.4g}"
    brightness = drawn([100.0] * 6, "brightness", reference=100.0, reference_spread=4.0)
    assert brightness.usual == "92 to 108"
    rate = drawn([0.01] * 6, "anomalous_rate", reference=0.01, reference_spread=0.02)
    assert rate.usual == "0 % to 5 %"
    assert rate.middle == pytest.approx(rate.points[-1].y)
    assert drawn([1.0] * 6, reference=None).band is None
    assert drawn([1.0] * 6, reference_spread=float("nan")).band is None


def test_a_night_without_a_value_is_a_gap_and_another_model_begins_a_new_line() -> None:
    chart = drawn([1.0, 1.1, None, 1.0, 1.2, 1.3])
    assert [len(line.split()) for line in chart.lines] == [2, 3]
    other = drawn([1.0, 1.1, 1.0, 1.0, 1.2, 1.3], model_version="v2")
    assert [len(line.split()) for line in other.lines] == [5]
    assert [mark.label for mark in other.models] == ["v2"]


@pytest.mark.parametrize(
    "values", [[0.0] * 6, [1e300, -1e305, 0, 1, 2, 1.7e308], [float("inf"), float("nan"), 1, 1, 1, 1], [5e-324] * 6]
)
def test_odd_values_are_drawn_inside_the_axes(values: list[float]) -> None:
    drawn(values)  # type: ignore[arg-type]
    drawn(values, reference=0.0, reference_spread=1e300)  # type: ignore[arg-type]


def test_without_a_value_of_tonight_there_is_no_chart() -> None:
    row = {"measure": "images", "verdict": "ok", "model_version": None, "reference": None, "reference_spread": None}
    assert night_chart(NIGHTS, {NIGHTS[0]: row | {"value": 1.0}}) is None
    assert night_chart(NIGHTS, {NIGHTS[-1]: row | {"value": float("nan")}}) is None
    assert night_chart(NIGHTS[-1:], {NIGHTS[-1]: row | {"value": 3.0}}) is not None


@pytest.mark.parametrize(("value", "text"), [(0.0, "0"), (1.5, "1.5"), (12.4, "12"), (1234.0, "1,234"), (None, "\N{EN DASH}")])
def test_numbers_of_images_are_whole_where_they_are(value: float | None, text: str) -> None:
    assert written("images", value) == text
