"""BRIDGE: the published rows of a night, as what is observed of each of its cells. DuckDB reads a category at a time.

Quantiles of a category of more than a few hundred thousand images are those of a sample, chosen by the images' ids: memory is
bounded, and the same rows give the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

import pyarrow.compute as pc
import pyarrow.dataset as ds

from differnet_ray.limits import VALUES, VOLUME
from differnet_ray.pipeline.observed import ERROR_OF_MEDIAN, NORMAL_IQR, Calibration, Observed
from differnet_ray.results.runs import open_table
from differnet_ray.results.sql import bounded_database
from differnet_ray.tables import DAY, GREY_CLIPPED, SCORES

MOST_FOR_QUANTILES = 300_000  # images of a category
NO_PARTS = (GREY_CLIPPED, DAY)  # attributes: of the score, and of the night, which has no other nights to compare with
FEW_VALUES = 10  # of an attribute with more, most are of several images: a serial number is no part of a category
UNREADABLE = ("unreadable", "unsupported", "too_large", "failed")
LEVELS = (0.25, 0.5, 0.75, 0.85, 0.9, 0.95)
_DENSITY_SPAN = LEVELS[5] - LEVELS[3]  # about the 90 % quantile
_PICTURE = tuple(name for name in VALUES if name in SCORES.schema.names)  # columns that the decoded images have


def categories_of_night(output: str, dt: date) -> list[str]:
    """Categories with published rows, sorted."""
    found = {
        str(part)
        for fragment in open_table(output, SCORES, dt=dt).get_fragments()
        if (part := ds.get_partition_keys(fragment.partition_expression).get("category")) is not None
    }
    return sorted(found)


def rows_of_night(output: str, dt: date, category: str) -> ds.Dataset:
    """The published rows of a category."""
    return open_table(output, SCORES, dt=dt, category=category)


def models_of_night(rows: ds.Dataset) -> list[str]:
    """Versions of the model that scored the images of `rows_of_night`, sorted."""
    found: set[str | None] = set()
    for batch in rows.to_batches(columns=["model_version"]):
        found.update(pc.unique(batch["model_version"]).to_pylist())
    return sorted(version for version in found if version is not None)


def observed_of_night(category: str, rows: ds.Dataset, calibration: Calibration | None, most_values: int) -> list[Observed]:
    """What is observed of a category and its parts.

    Args:
        category: its name.
        rows: of `rows_of_night`.
        calibration: of its model; without one nothing is said of the range of its scores.
        most_values: an attribute with more values, or with a new one for about every image, is not split by.
    """
    share = min(1.0, MOST_FOR_QUANTILES / max(rows.count_rows(), 1))
    last = f"{min(int(share * 2**32), 2**32 - 1):08x}"
    low, high = (
        (-math.inf, math.inf) if calibration is None else (float(calibration.scores.min()), float(calibration.scores.max()))
    )
    with bounded_database() as database:
        database.register("scores", rows)
        columns = ", ".join(("status", "anomaly_score", "model_version", "attributes", *_PICTURE))
        database.execute(f"CREATE TABLE image AS SELECT image_id[:8] <= '{last}' AS sampled, {columns} FROM scores")  # noqa: S608
        database.execute("CREATE TABLE pair AS SELECT unnest(map_entries(attributes), recursive := true) FROM image")
        keys = [
            key
            for key, n, n_images in database.sql(
                "SELECT key, approx_count_distinct(value), count(*) FROM pair GROUP BY key ORDER BY key"
            ).fetchall()
            if n <= most_values and key not in NO_PARTS and (n <= FEW_VALUES or n_images >= 2 * n)
        ]
        database.execute("DROP TABLE pair")
        cells = ["SELECT '' AS attribute, '' AS attribute_value, * FROM image"]
        cells += ["SELECT ?, attributes[?], * FROM image WHERE attributes[?] IS NOT NULL" for _ in keys]
        values = [value for key in keys for value in (key, key, key)]
        quantiles = ", ".join(
            f"count({column}) FILTER (sampled) AS n_{column}, "
            f"quantile_cont({column}, {list(LEVELS)}) FILTER (sampled AND {column} IS NOT NULL) AS q_{column}"
            for column in ("anomaly_score", *_PICTURE)
        )
        found = database.execute(
            f"""
            WITH cell AS ({" UNION ALL ".join(cells)})
            SELECT attribute, attribute_value, count(*) AS n,
                count(*) FILTER (status IN {UNREADABLE}) AS unreadable, count(*) FILTER (status = 'missing') AS missing,
                count(anomaly_score) AS scored, count(*) FILTER (status = 'anomalous') AS anomalous,
                count(*) FILTER (status IN ('anomalous', 'review')) AS review,
                count(*) FILTER (anomaly_score < '{low}'::DOUBLE OR anomaly_score > '{high}'::DOUBLE) AS outside,
                string_agg(DISTINCT model_version, ',' ORDER BY model_version) AS model, {quantiles}
            FROM cell GROUP BY attribute, attribute_value ORDER BY attribute, attribute_value
            """,  # noqa: S608
            values,
        )
        names = [column[0] for column in found.description]
        cells_found = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
    return [one for cell in cells_found for one in _observed(category, cell, calibration is not None)]


def _observed(category: str, cell: Mapping[str, Any], calibrated: bool) -> Iterator[Observed]:
    place = (category, cell["attribute"], cell["attribute_value"])
    yield Observed(*place, VOLUME, cell["n"], float(cell["n"]))
    for status in ("unreadable", "missing"):
        yield Observed(*place, f"{status}_rate", cell["n"], cell[status] / cell["n"], cell[status])
    if cell["scored"]:
        for status in ("anomalous", "review", *(["outside"] if calibrated else [])):
            rate = cell[status] / cell["scored"]
            yield Observed(*place, f"{status}_rate", cell["scored"], rate, cell[status], model_version=cell["model"])
    for column in ("anomaly_score", *_PICTURE):
        if n := cell[f"n_{column}"]:
            low, middle, high, before, upper, after = cell[f"q_{column}"]
            spread = (high - low) / NORMAL_IQR
            of_scores = column == "anomaly_score"
            name, model = ("score_median", cell["model"]) if of_scores else (column, None)
            # of a median of normal draws, and of a quantile by the density about it
            yield Observed(*place, name, n, middle, None, ERROR_OF_MEDIAN * spread / n**0.5, spread, model)
            if of_scores:
                error = (0.09 / n) ** 0.5 * (after - before) / _DENSITY_SPAN
                yield Observed(*place, "score_q90", n, upper, None, error, spread, model)
