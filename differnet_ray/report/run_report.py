"""The report of a scoring run: what was counted, scores by category, the worst images with their maps, the lineage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from differnet_ray import results
from differnet_ray.config import Recipe
from differnet_ray.errors import ModelStoreError, StorageError
from differnet_ray.report.page import LISTED, duration, moment_of, write_page
from differnet_ray.report.pictures import Picture, pictures
from differnet_ray.report.run_rows import CategoryRows, RunRows, newer_runs, read_rows
from differnet_ray.report.score_bars import Histogram, cells_of, histogram
from differnet_ray.results.housekeeping import REPORTS
from differnet_ray.results.runs import NAMED_REASONS, no_category_uri
from differnet_ray.storage.locations import FILE, join
from differnet_ray.store.model_store import ModelStore
from differnet_ray.tables import GREY_CLIPPED, SCORED_STATUSES, STATUSES

MAX_PICTURES = 240  # of all categories: about 8 MB of page


@dataclass(frozen=True)
class CategorySection:
    """What the report says of one category.

    Attributes:
        name: of the category.
        counts: status to images, as the run file has it.
        rows: what was found of it in the results.
        histogram: of its scores, or None where it has none.
        model: record of its model, or None where that is not at hand.
        pictures: of its worst images.
        notes: what a reader has to know about it.
    """

    name: str
    counts: Mapping[str, int]
    rows: CategoryRows
    histogram: Histogram | None
    model: Mapping[str, Any] | None
    pictures: Sequence[Picture]
    notes: Sequence[str]

    @property
    def n_flagged(self) -> int:
        """Its flagged images that are still in the results."""
        return self.rows.counts["review"] + self.rows.counts["anomalous"]


def write_run_report(
    output: str, run_id: str, *, models: str | None = None, target: str | None = None, max_images: int = 24
) -> str:
    """Writes the report of a published scoring run.

    Args:
        output: canonical URI of the results.
        run_id: of the run.
        models: canonical URI of the model store, for the scores of the calibration sets and the grey range of pictures; None
            does without them.
        target: canonical URI of the page; None for OUTPUT/reports/RUN_ID.html.
        max_images: flagged images of each category to show as pictures; fewer where there are many categories, so that the
            page has at most some 240.

    Returns:
        The URI of the page.

    Raises:
        ConfigError: there is no such run.
        StorageError: the results cannot be read, or the page cannot be written.
    """
    record = results.run(output, run_id)
    categories = sorted(record["category_counts"])
    n_shown = min(max_images, max(2, MAX_PICTURES // max(1, len(categories))))
    rows = read_rows(output, record["dt"], run_id, categories, worst=n_shown, listed=LISTED)
    sections = [_section(output, record, category, rows.categories[category], models) for category in categories]
    uri = join(output, REPORTS, f"{run_id}.html") if target is None else target
    _write(uri, output, record, rows, sections, models)
    return uri


def _section(output: str, record: Mapping[str, Any], category: str, rows: CategoryRows, models: str | None) -> CategorySection:
    dt, run_id, counts = record["dt"], record["run_id"], record["category_counts"][category]
    notes, model, calibration = [], None, Counter[int]()
    n_images, n_found = sum(counts.values()), rows.counts.total()
    if n_found < n_images:
        newer = newer_runs(output, dt, category, run_id)
        why = f"replaced by the run {', '.join(newer)}" if newer else "removed from the results"
        notes.append(
            f"{n_images - n_found:,} of the {n_images:,} rows of this category have since been {why}: the counts are those of "
            "the run, scores and images below are of the rows that are left."
        )
    elif rows.counts != Counter(counts):
        found = ", ".join(f"{n:,} {status}" for status, n in sorted(rows.counts.items()))
        notes.append(f"The rows have been decided anew since the run: now {found}.")
    version = record["models"].get(category)
    if models is not None and version is not None:
        try:
            model, scores = _calibration(models, category, version, record["model_digests"].get(category))
            calibration = cells_of(scores, rows.threshold)
        except (ModelStoreError, StorageError) as error:
            notes.append(f"The scores of the calibration set are not shown: {error}.")
    drawn = histogram(rows.cells, calibration, rows.threshold, rows.review_threshold)
    if n_found and (n_clipped := results.n_clipped(output, dt, run_id, category)):
        notes.append(
            f"Images with grey values outside of the range of the model, which are clipped: {n_clipped:,}. The attribute "
            f"{GREY_CLIPPED} has the share of their pixels."
        )
    grey_range = Recipe.from_dict(model["recipe"]).images.grey_range if model else None
    shown = pictures(output, dt, run_id, category, rows.worst, grey_range)
    return CategorySection(category, counts, rows, drawn, model, shown, notes)


def _calibration(models: str, category: str, version: str, digest: str | None) -> tuple[dict[str, Any], Any]:
    """The record of a model and the scores of its calibration set, without the weights that `load` would read as well."""
    store = ModelStore(models)
    record = store.record(category, version)
    if record.get("digest") != digest:
        raise ModelStoreError(f"the model {category} {version} in {models} has another digest than the one that scored")
    scores = store.calibration(category, version)["anomaly_score"].to_numpy()
    return record, np.asarray(scores, dtype=np.float64)


def _write(
    target: str, output: str, record: Mapping[str, Any], rows: RunRows, sections: Sequence[CategorySection], models: str | None
) -> None:
    counts, seconds = record["counts"], (moment_of(record["finished_at"]) - moment_of(record["started_at"])).total_seconds()
    write_page(
        target,
        "run_report.html.j2",
        run=record,
        duration=duration(seconds),
        statuses=[status for status in STATUSES if status in SCORED_STATUSES or counts.get(status)],
        sections=sections,
        flagged=rows.flagged,
        n_flagged=sum(section.n_flagged for section in sections),
        not_scored=rows.not_scored,
        n_not_scored=sum(n for section in sections for s, n in section.rows.counts.items() if s not in SCORED_STATUSES),
        no_category=no_category_uri(output, record["run_id"]) if any(map(record["skipped"].get, NAMED_REASONS)) else None,
        output=output,
        models=models,
        flagged_sql=_sql(output, record, "status IN ('review', 'anomalous')", "anomaly_score / threshold DESC"),
        not_scored_sql=_sql(output, record, "anomaly_score IS NULL", "category, status, uri, member"),
    )


def _sql(output: str, record: Mapping[str, Any], condition: str, order: str) -> list[str]:
    """The lines of a query that finds rows of the run with DuckDB; for people, nothing here runs it."""
    files = join(output.removeprefix(FILE), "scores", f"dt={record['dt']}", "*", "*.parquet").replace("'", "''")
    return [
        f"SELECT * FROM read_parquet('{files}', hive_partitioning = true)",  # noqa: S608
        f"WHERE run_id = '{record['run_id']}' AND {condition}",
        f"ORDER BY {order};",
    ]
