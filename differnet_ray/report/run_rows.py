"""What the report needs of the rows of a scoring run, found in one pass over them, a batch at a time.

Legend: the severity of an image is its score as a multiple of its threshold: it makes images of different categories
comparable. Flagged images are those for review and the anomalous ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from differnet_ray import results
from differnet_ray.report.score_bars import Cells, cells_of
from differnet_ray.results.runs import run_of
from differnet_ray.tables import SCORED_STATUSES

COLUMNS = (
    *("image_id", "uri", "member", "category", "status", "error", "anomaly_score", "score_std", "threshold"),
    *("review_threshold", "p_value", "peak_x", "peak_y", "area_fraction", "width", "height", "bytes", "etag"),
)
WORST_FIRST = (("severity", "descending"), ("category", "ascending"), ("uri", "ascending"), ("member", "ascending"))
BY_PLACE = (("category", "ascending"), ("status", "ascending"), ("uri", "ascending"), ("member", "ascending"))


@dataclass(frozen=True)
class ScoreRow:
    """A row of `tables.SCORES`, with its severity; the other names are those of the table."""

    image_id: str
    uri: str
    member: str | None
    category: str
    status: str
    error: str | None
    anomaly_score: float | None
    score_std: float | None
    threshold: float | None
    review_threshold: float | None
    p_value: float | None
    peak_x: float | None
    peak_y: float | None
    area_fraction: float | None
    width: int | None
    height: int | None
    bytes: int | None
    etag: str | None
    severity: float | None

    @property
    def name(self) -> str:
        """The last part of the member's name, or of the URI where it is a file of its own."""
        return (self.member or self.uri).rstrip("/").rsplit("/", 1)[-1]


@dataclass
class CategoryRows:
    """The rows of one category.

    Attributes:
        counts: status to how many rows.
        threshold, review_threshold: of its rows; None where none has a score.
        cells: how many scores lie in which cell of the histogram.
        worst: the flagged images of the largest severity.
    """

    counts: Counter[str] = field(default_factory=Counter)
    threshold: float | None = None
    review_threshold: float | None = None
    cells: Cells = field(default_factory=Counter)
    worst: list[ScoreRow] = field(default_factory=list)


@dataclass
class RunRows:
    """All rows of a run: of the many, how many; of those that people look at, the first.

    Attributes:
        categories: category to its rows.
        flagged: the flagged images of the largest severity, of all categories.
        not_scored: the first of the images without a score, by category, status and place.
    """

    categories: dict[str, CategoryRows]
    flagged: list[ScoreRow]
    not_scored: list[ScoreRow]


class _First:
    """Of all rows that it is shown, the first ones in an order."""

    def __init__(self, limit: int, order: Sequence[tuple[str, str]]) -> None:
        self.limit, self.order = limit, list(order)
        self.kept: list[pa.Table] = []

    def see(self, rows: pa.Table) -> None:
        if rows.num_rows:
            self.kept = [pa.concat_tables([*self.kept, rows]).sort_by(self.order).slice(0, self.limit).combine_chunks()]

    def rows(self) -> list[ScoreRow]:
        return [ScoreRow(**row) for table in self.kept for row in table.to_pylist()]


def read_rows(
    output: str, dt: str, run_id: str, categories: Sequence[str], *, worst: int, listed: int, unlisted: Sequence[str] = ()
) -> RunRows:
    """Reads the published rows of a run once, and keeps what the report shows.

    Args:
        output: canonical URI of the results.
        dt: day of the run's partition.
        run_id: rows of other runs are left out.
        categories: of the run.
        worst: flagged images to keep of each category.
        listed: flagged images, and images without a score, to keep of all categories.
        unlisted: statuses of images without a score that are counted and not kept.
    """
    found = RunRows({category: CategoryRows() for category in categories}, [], [])
    flagged, not_scored = _First(listed, WORST_FIRST), _First(listed, BY_PLACE)
    passed_over = pa.array(unlisted, pa.string())
    worst_of = {category: _First(worst, WORST_FIRST) for category in categories}
    for rows in _batches(output, dt, run_id, categories):
        is_scored = pc.is_in(rows["status"], value_set=pa.array(SCORED_STATUSES))
        is_flagged = pc.and_(is_scored, pc.not_equal(rows["status"], "ok"))
        not_scored.see(rows.filter(pc.invert(pc.or_(is_scored, pc.is_in(rows["status"], value_set=passed_over)))))
        flagged.see(rows.filter(is_flagged))
        for category in pc.unique(rows["category"]).to_pylist():
            _count(found.categories[category], rows.filter(pc.field("category") == category))
            worst_of[category].see(rows.filter(pc.and_(is_flagged, pc.equal(rows["category"], category))))
    for category, first in worst_of.items():
        found.categories[category].worst = first.rows()
    found.flagged, found.not_scored = flagged.rows(), not_scored.rows()
    return found


def newer_runs(output: str, dt: str, category: str, run_id: str) -> list[str]:
    """The runs that have rows of a category and day, and have replaced rows of a run."""
    try:
        files = list(results.scores(output, date=dt).get_fragments(pc.field("category") == category))
    except FileNotFoundError:
        return []
    others = sorted({run_of(file.path) for file in files} - {run_id})
    return [other for other in others if run_id in results.run(output, other)["replaced"]]


def _batches(output: str, dt: str, run_id: str, categories: Sequence[str]) -> Iterator[pa.Table]:
    """The rows of a run, a row group at a time: a scanner of a whole dataset reads up to a gigabyte ahead."""
    try:
        rows = results.scores(output, date=dt)
    except FileNotFoundError:  # what it had published was removed
        return
    mine = pc.field("category").isin(pa.array(categories, pa.string())) & (pc.field("run_id") == run_id)
    for file in rows.get_fragments(filter=mine):
        for group in file.split_by_row_group(filter=mine, schema=rows.schema):
            table = group.to_table(schema=rows.schema, columns=list(COLUMNS), filter=mine)
            score, threshold = (np.asarray(table[name].to_numpy(), dtype=float) for name in ("anomaly_score", "threshold"))
            with np.errstate(divide="ignore", invalid="ignore"):
                severity = score / threshold
            yield table.append_column("severity", pa.array(severity, pa.float64(), from_pandas=True))


def _count(found: CategoryRows, rows: pa.Table) -> None:
    for count in rows.group_by("status").aggregate([([], "count_all")]).to_pylist():
        found.counts[count["status"]] += count["count_all"]
    scored = rows.filter(pc.field("anomaly_score").is_valid())
    if scored.num_rows:
        found.threshold, found.review_threshold = (_any(scored[name]) for name in ("threshold", "review_threshold"))
        found.cells += cells_of(scored["anomaly_score"].to_numpy(), found.threshold)


def _any(column: pa.ChunkedArray) -> float | None:
    """A value of a column in which all are equal, or null."""
    value: Any = pc.first(column).as_py()
    return None if value is None else float(value)
