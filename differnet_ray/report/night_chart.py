"""A measure over the nights up to tonight, as a small drawing: a point a night, and the band in which it usually is.

Legend: the band is the reference of tonight's row of `drift`, two standard deviations of a night to either side; of what is
compared as ratios the spread is a factor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from differnet_ray.limits import RATES, VOLUME
from differnet_ray.pipeline.observed import LOGARITHMIC
from differnet_ray.report.page import number, percent
from differnet_ray.report.score_bars import Mark

WIDTH, HEIGHT = 300, 150  # of the drawing, in its own units
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 22, 24  # what its edges leave for labels
SPREADS = 2.0  # of a night, from the middle of the band to its edges
LARGEST = 1e300  # what is drawn of larger values: their differences are still floats
TICKS = 5


@dataclass(frozen=True)
class Point:
    """A night, in units of the drawing; `kind` is `tonight`, or the verdict that it had."""

    x: float
    y: float
    kind: str
    label: str


@dataclass(frozen=True)
class NightChart:
    """A measure as it is drawn.

    Attributes:
        points: of the nights that have a value, the last one tonight's.
        lines: points `x,y ...` of the lines between nights that follow each other and have the same model.
        models: where another model took over.
        band: top and height of the band, or None where nothing says what is usual.
        middle: of the band.
        x_ticks, y_ticks: of the axes.
        usual: the band in words, or empty.
    """

    points: tuple[Point, ...]
    lines: tuple[str, ...]
    models: tuple[Mark, ...]
    band: tuple[float, float] | None
    middle: float | None
    x_ticks: tuple[Mark, ...]
    y_ticks: tuple[Mark, ...]
    usual: str
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM
    width: int = WIDTH
    height: int = HEIGHT


def night_chart(nights: Sequence[date], rows: Mapping[date, Mapping[str, Any]]) -> NightChart | None:
    """Draws a measure of a category, or of a part of it.

    Args:
        nights: in order; the last one is tonight.
        rows: of `drift`, of that measure, by night.

    Returns:
        None where tonight has no value.
    """
    values = {dt: _clipped(row["value"]) for dt, row in rows.items() if math.isfinite(row["value"])}
    if nights[-1] not in values:
        return None
    tonight = rows[nights[-1]]
    measure = tonight["measure"]
    band = _band(tonight)
    low, high = _range([*values.values(), *(band or ())], from_zero=measure in (*RATES, VOLUME))
    step = (WIDTH - LEFT - RIGHT) / max(len(nights), 2)

    def y_of(value: float) -> float:
        share = (min(max(value, low), high) - low) / (high - low)
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * share

    points, lines, models = [], [list[str]()], []
    before: tuple[int, Any] | None = None
    for place, dt in enumerate(nights):
        if dt not in values:
            continue
        row, x, y = rows[dt], LEFT + step * (place + 0.5), y_of(values[dt])
        model = row["model_version"]
        if before is not None and before[1] != model:
            models.append(Mark(x - step / 2, str(model)))
        if before is not None and before != (place - 1, model):
            lines.append([])
        before = (place, model)
        lines[-1].append(f"{x:.1f},{y:.1f}")
        kind = "tonight" if dt == nights[-1] else row["verdict"]
        points.append(Point(x, y, kind, f"{dt}: {written(measure, row['value'])}, {row['verdict'].replace('_', ' ')}"))
    return NightChart(
        points=tuple(points),
        lines=tuple(" ".join(line) for line in lines if len(line) > 1),
        models=tuple(models),
        band=None if band is None else (y_of(band[1]), y_of(band[0]) - y_of(band[1])),
        middle=None if band is None else y_of(tonight["reference"]),
        x_ticks=_days(nights, step),
        y_ticks=tuple(Mark(y_of(value), written(measure, value)) for value in _ticks(low, high)),
        usual="" if band is None else f"{written(measure, band[0])} to {written(measure, band[1])}",
    )


def written(measure: str, value: float | None) -> str:
    """A value of a measure, in its unit.

    >>> written("anomalous_rate", 0.25), written("images", 1234.0), written("score_median", 1.23456)
    ('25 %', '1,234', '1.235')
    """
    if measure in RATES:
        return percent(value)
    return (
        f"{value:,.0f}" if measure == VOLUME and value is not None and (value >= 10 or value == int(value)) else number(value)
    )


def _band(row: Mapping[str, Any]) -> tuple[float, float] | None:
    middle, spread = row["reference"], row["reference_spread"]
    if middle is None or spread is None or not math.isfinite(middle) or not math.isfinite(spread):
        return None
    if row["measure"] in LOGARITHMIC:
        factor = min(max(spread, 1.0), 1e9) ** SPREADS
        return _clipped(middle / factor), _clipped(middle * factor)
    low, high = _clipped(middle - SPREADS * spread), _clipped(middle + SPREADS * spread)
    return (max(low, 0.0), min(high, 1.0)) if row["measure"] in RATES else (low, high)


def _clipped(value: float) -> float:
    return min(max(value, -LARGEST), LARGEST)


def _range(values: Sequence[float], *, from_zero: bool) -> tuple[float, float]:
    low, high = (0.0 if from_zero else min(values)), max(values)
    room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return (0.0 if from_zero else low - room), high + room


def _ticks(low: float, high: float) -> list[float]:
    """A few round values between two.

    >>> _ticks(0.0, 0.47)
    [0.0, 0.1, 0.2, 0.3, 0.4]
    """
    rough = (high - low) / TICKS
    decade = 10.0 ** math.floor(math.log10(rough))
    step = next(round_step * decade for round_step in (1, 2, 5, 10) if round_step * decade >= rough)
    return [round(n * step, 12) if step < 1e9 else n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _days(nights: Sequence[date], step: float) -> tuple[Mark, ...]:
    places = sorted({0, len(nights) // 2, len(nights) - 1}) if len(nights) > 4 else [0, len(nights) - 1][: len(nights)]
    return tuple(Mark(LEFT + step * (place + 0.5), f"{nights[place]:%m-%d}") for place in dict.fromkeys(places))
