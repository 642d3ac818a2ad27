"""What the page of a night needs of the table `drift`: alarms with their history, and how each category was night by night."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from differnet_ray.report.night_chart import NightChart, night_chart, written
from differnet_ray.results.audits import audited_nights
from differnet_ray.results.drift_table import VERDICTS, drift_of, nights_of_drift, verdicts_of
from differnet_ray.tables import DRIFT

NIGHTS = 28
MATRIX_ROWS, FEWEST_ROWS = 200, 40  # of the matrix, at most; up to the latter categories as usual have one as well
CHARTS, CHARTS_OF_CATEGORY = 40, 4
_TO_JUDGE = ("category", "attribute", "measure", "value", "model_version", "verdict")
VERDICT_WORDS = {"alarm": "alarm", "muted": "muted", "no_images": "no images", "no_reference": "not judged", "ok": "ok"}
MEASURES = {
    "images": "number of images",
    "anomalous_rate": "anomalous images",
    "review_rate": "images for review or anomalous",
    "outside_rate": "scores outside those of the calibration set",
    "unreadable_rate": "unreadable images",
    "missing_rate": "missing images",
    "score_median": "median score",
    "score_q90": "90 % quantile of the scores",
}


@dataclass(frozen=True)
class Alarm:
    """A row of `drift` that alarms, or would if it were not muted.

    Attributes:
        row: of `tables.DRIFT`.
        chart: of its measure over the nights, where it is drawn.
    """

    row: Mapping[str, Any]
    chart: NightChart | None = None

    @property
    def part(self) -> str:
        """Of the category: `all images`, or an attribute and its value."""
        row = self.row
        return f"{row['attribute']} {row['attribute_value'] or '(empty)'}" if row["attribute"] else "all images"

    @property
    def measure(self) -> str:
        """In words."""
        measure: str = self.row["measure"]
        return MEASURES.get(measure, measure)

    @property
    def value(self) -> str:
        """Tonight's, in its unit."""
        return written(self.row["measure"], self.row["value"])


@dataclass(frozen=True)
class MatrixRow:
    """A category, and its verdict in each night."""

    category: str
    verdicts: tuple[str, ...]


@dataclass(frozen=True)
class Matrix:
    """Categories by nights.

    Attributes:
        nights: in order; the last one is tonight.
        rows: the first categories: those that alarm, then muted, without images, not judged, as usual; among each those that
            alarmed in most of the nights.
        others: verdict to how many, for each night, of the categories that have no row.
        alarming: categories that alarmed, for each night.
        n_categories: of all rows and others.
    """

    nights: tuple[date, ...]
    rows: tuple[MatrixRow, ...]
    others: tuple[Mapping[str, int], ...]
    alarming: tuple[int, ...]
    n_categories: int

    @property
    def n_others(self) -> int:
        """Categories without a row."""
        return self.n_categories - len(self.rows)


@dataclass(frozen=True)
class NightRows:
    """What the table says of a night.

    Attributes:
        verdicts: category to its verdict tonight.
        alarms, muted: category to rows, the least probable first, in both.
        matrix: of the nights up to tonight.
    """

    verdicts: Mapping[str, str]
    alarms: Mapping[str, Sequence[Alarm]]
    muted: Sequence[Alarm]
    matrix: Matrix

    @property
    def n_alarms(self) -> int:
        """Rows that alarm."""
        return sum(map(len, self.alarms.values()))


def read_night(output: str, dt: date) -> NightRows:
    """Reads the rows of a night, and of those before it what the page shows, a night at a time.

    Args:
        output: canonical URI of the results.
        dt: the night.
    """
    nights = sorted({dt, *nights_of_drift(output), *audited_nights(output)})
    nights = [night for night in nights if night <= dt][-NIGHTS:]
    verdicts = [verdicts_of(drift_of(output, night, _TO_JUDGE)) for night in nights]
    found = drift_of(output, dt, DRIFT.schema.names, pc.field("verdict").isin(["alarm", "muted"])).to_pylist()
    found.sort(key=_urgency)
    by_category: dict[str, list[dict[str, Any]]] = {}
    for row in found:
        if row["verdict"] == "alarm":
            by_category.setdefault(row["category"], []).append(row)
    drawn = [row for rows in by_category.values() for row in _drawn(rows)][:CHARTS]
    charts = _charts(output, nights, drawn)
    alarms = {category: [Alarm(row, charts.get(_key(row))) for row in rows] for category, rows in by_category.items()}
    muted = [Alarm(row) for row in found if row["verdict"] == "muted"]
    return NightRows(verdicts[-1], alarms, muted, _matrix(nights, verdicts))


def _urgency(row: Mapping[str, Any]) -> tuple[float, bool, str, str, str, str]:
    p_value = 1.0 if row["p_value"] is None else row["p_value"]
    return p_value, row["attribute"] != "", *_key(row)


def _drawn(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of the alarms of a category those with a chart: each measure once, where it is least probable, then others."""
    once = list({row["measure"]: row for row in reversed(rows)}.values())[::-1]
    others = [row for row in rows if not any(row is one for one in once)]
    return [*sorted(once, key=_urgency), *others][:CHARTS_OF_CATEGORY]


def _key(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    return row["category"], row["attribute"], row["attribute_value"], row["measure"]


def _charts(
    output: str, nights: Sequence[date], rows: Sequence[Mapping[str, Any]]
) -> dict[tuple[str, str, str, str], NightChart | None]:
    names = ("category", "attribute_value", "measure")
    wanted = ({row[name] for row in rows} for name in names)
    category, value, measure = (
        pc.field(name).isin(pa.array(sorted(of_name), pa.string())) for name, of_name in zip(names, wanted, strict=True)
    )
    history: dict[tuple[str, str, str, str], dict[date, Mapping[str, Any]]] = {_key(row): {} for row in rows}
    for night in nights if rows else ():
        for row in drift_of(output, night, DRIFT.schema.names, category & value & measure).to_pylist():
            if _key(row) in history:
                history[_key(row)][night] = row
    return {key: night_chart(nights, of_nights) for key, of_nights in history.items()}


def _matrix(nights: Sequence[date], verdicts: Sequence[Mapping[str, str]]) -> Matrix:
    n_alarms = Counter(category for night in verdicts for category, verdict in night.items() if verdict == "alarm")
    categories = sorted(
        {category for night in verdicts for category in night},
        key=lambda category: (VERDICTS.index(verdicts[-1].get(category, "no_images")), -n_alarms[category], category),
    )
    n_unusual = sum(verdicts[-1].get(category) != "ok" or n_alarms[category] > 0 for category in categories)
    n_rows = min(MATRIX_ROWS, max(FEWEST_ROWS, n_unusual))
    rows = [MatrixRow(c, tuple(night.get(c, "no_images") for night in verdicts)) for c in categories[:n_rows]]
    others = tuple(Counter(night.get(c, "no_images") for c in categories[n_rows:]) for night in verdicts)
    alarming = tuple(sum(verdict == "alarm" for verdict in night.values()) for night in verdicts)
    return Matrix(tuple(nights), tuple(rows), others, alarming, len(categories))
