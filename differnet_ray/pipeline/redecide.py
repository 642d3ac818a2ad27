"""BRIDGE: stored scores decided anew by other thresholds. No image is read, and the result is a run like any other.

    rows of the day -> limits of each category -> the same files with other status, thresholds and run id -> published

The run file says by the option `redecided` which runs the rows came from, and what they are decided by; the column `scored_by`
which run computed a score.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from differnet_ray.errors import ConfigError
from differnet_ray.model.calibration import conformal_threshold
from differnet_ray.results.publish import add_files, run_record_of
from differnet_ray.results.runs import Run, parquet_files, partition, plan_run, published_schema, run_ids, run_of
from differnet_ray.results.sql import row_groups
from differnet_ray.storage.files import list_folders, write_bytes
from differnet_ray.storage.locations import join
from differnet_ray.store.model_store import ModelStore, same_scores
from differnet_ray.tables import MAPS, SCORES, status_of

DECIDED_BY = ("model_version", "model_digest", "threshold", "review_threshold")


@dataclass(frozen=True)
class Limits:
    """Thresholds: a score at or over them is anomalous, or for review.

    Raises:
        ConfigError: the review threshold is over the other.
    """

    threshold: float
    review_threshold: float

    def __post_init__(self) -> None:
        if not 0 < self.review_threshold <= self.threshold:
            raise ConfigError(
                f"review threshold {self.review_threshold:g} and threshold {self.threshold:g}: expected 0 < review <= threshold"
            )


@dataclass(frozen=True)
class Scored:
    """How some rows were scored and decided.

    Attributes:
        version, digest: of the model.
        limits: that they were decided by.
    """

    version: str
    digest: str
    limits: Limits


@dataclass(frozen=True)
class Decided:
    """The published rows of a day and category.

    Attributes:
        category: theirs.
        runs: run that published some of them to how many.
        scored: the ways in which those with a score were scored and decided.
        files: table to URIs, in order.
    """

    category: str
    runs: Mapping[str, int]
    scored: Sequence[Scored]
    files: Mapping[str, Sequence[str]]


def limits_of_rate(store: ModelStore, target_fpr: float, category: str, scored: Scored) -> Limits:
    """What a share `target_fpr` of good images is over, by the calibration set of the model that scored, as `fit` finds it.

    Raises:
        ModelStoreError: the model is not there or damaged.
    """
    scores = store.calibration(category, scored.version)["anomaly_score"].to_numpy()
    record = store.record(category, scored.version)
    review_fpr, n_groups = record["recipe"]["calibration"]["review_fpr"], record["decision"].get("n_groups")
    threshold = conformal_threshold(scores, target_fpr, n_groups).value
    return Limits(threshold, min(threshold, conformal_threshold(scores, max(target_fpr, review_fpr), n_groups).value))


def limits_in_use(store: ModelStore, category: str, scored: Scored) -> Limits:
    """The thresholds of the version in use, which may have been calibrated since.

    Raises:
        ConfigError: it has another flow than the one that scored.
        ModelStoreError: a model is not there or damaged.
    """
    in_use = store.record(category)
    if not same_scores(in_use, store.record(category, scored.version)):
        raise ConfigError(
            f"{category}: scored by {scored.version}, and {in_use['version']} in use has another flow: score the day again"
        )
    return Limits(in_use["decision"]["threshold"], in_use["decision"]["review_threshold"])


def limits_of_threshold(threshold: float, review_threshold: float | None, scored: Scored) -> Limits:
    """These thresholds; without one for review that which the rows have, or the threshold where it is lower."""
    return Limits(threshold, min(scored.limits.review_threshold, threshold) if review_threshold is None else review_threshold)


def decided(output: str, dt: date, categories: Sequence[str] = ()) -> list[Decided]:
    """What is published for a day, of some categories or of all.

    Raises:
        ConfigError: nothing is, or not of a category that was asked for.
    """
    return [_decided(category, files) for category, files in published_files(output, dt, categories).items()]


def published_files(output: str, dt: date, categories: Sequence[str] = ()) -> dict[str, dict[str, list[str]]]:
    """Category to table to the files of a day, in order, of some categories or of all.

    Raises:
        ConfigError: nothing is published, or not of a category that was asked for.
    """
    files = _files_of(output, dt)
    for category in categories:
        if category not in files:
            raise ConfigError(f"{category}: nothing is published for {dt} in {output}; there are: {', '.join(files) or 'none'}")
    if not files:
        raise ConfigError(f"nothing is published for {dt} in {output}")
    return {category: files[category] for category in categories or files}


def redecide(
    output: str,
    dt: date,
    rows: Sequence[Decided],
    limits: Mapping[str, Mapping[Scored, Limits]],
    libraries: Mapping[str, str],
) -> dict[str, Any] | None:
    """Publishes stored scores as they are decided by other limits; None where all have been decided by these already.

    To be called within `publishing`, from `decided` on.

    Maps stay with their images. An image that is flagged now and was not has none: `score` makes it.

    Args:
        output: canonical URI of the results.
        dt: the day.
        rows: of that day.
        limits: category to the limits of each of the ways in which its rows were scored and decided.
        libraries: versions, for the run file.

    Returns:
        The content of the run file.
    """
    rows = [of_category for of_category in rows if any(s.limits != new for s, new in limits[of_category.category].items())]
    if not rows:
        return None
    lineage = {
        of_category.category: {
            "from": dict(of_category.runs),
            "decided": [
                {"model_version": scored.version, **asdict(new)} for scored, new in limits[of_category.category].items()
            ],
        }
        for of_category in rows
    }
    sources = sorted((of_category.category, sorted(of_category.runs.items())) for of_category in rows)
    newest = {of_category.category: max(of_category.scored, key=lambda scored: scored.version) for of_category in rows}
    run = plan_run(
        dt=dt,
        listing_digest=hashlib.sha256(json.dumps(sources).encode()).hexdigest(),
        models={category: (scored.version, scored.digest) for category, scored in newest.items()},
        options={"redecided": json.dumps(lineage)},
    )

    def write() -> tuple[set[str], dict[str, Any]]:
        written, counts, n_maps = set[str](), dict[str, dict[str, int]](), 0
        for of_category in rows:
            uris, statuses, maps = _write(output, run, of_category, limits[of_category.category])
            written |= uris
            counts[of_category.category], n_maps = dict(sorted(statuses.items())), n_maps + maps
        return written, run_record_of(run, counts, n_maps, libraries)

    return add_files(output, run, write)


def _write(output: str, run: Run, rows: Decided, limits: Mapping[Scored, Limits]) -> tuple[set[str], Counter[str], int]:
    """Writes the files of a category anew; returns their URIs, the statuses and the number of maps."""
    written, statuses, n_maps = set[str](), Counter[str](), 0
    for table in (SCORES, MAPS):
        schema = published_schema(table, run.run_id)
        for part, uri in enumerate(rows.files[table.name]):
            sink = io.BytesIO()
            with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
                for group in row_groups(uri):
                    if table is SCORES:
                        group = _decide(group, limits)
                        statuses.update(group["status"].to_pylist())
                    else:
                        n_maps += group.num_rows
                    group = _with(group, "run_id", pa.repeat(run.run_id, group.num_rows))
                    writer.write_table(_of_today(group, schema))
            target = join(partition(output, table, run.dt, rows.category), f"{run.run_id}-{part:05d}.parquet")
            write_bytes(target, sink.getvalue())
            written.add(target)
    return written, statuses, n_maps


def _decide(rows: pa.Table, limits: Mapping[Scored, Limits]) -> pa.Table:
    """Rows with the status and thresholds that their new limits give, and the run that computed their scores."""
    if "scored_by" not in rows.column_names:  # of version 1: no `redecide` had said it
        rows = rows.append_column("scored_by", rows["run_id"])
    columns: dict[str, list[Any]] = {"status": [], "threshold": [], "review_threshold": []}
    for row in rows.select([*DECIDED_BY, "anomaly_score", "status"]).to_pylist():
        new = None if row["anomaly_score"] is None else limits[_scored(row)]
        status = row["status"] if new is None else status_of(row["anomaly_score"], new.threshold, new.review_threshold)
        columns["status"].append(status)
        columns["threshold"].append(new and new.threshold)
        columns["review_threshold"].append(new and new.review_threshold)
    for name, values in columns.items():
        rows = _with(rows, name, pa.array(values, rows.schema.field(name).type))
    return rows


def _of_today(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows of any version of a table with all its columns: those that it did not have are null."""
    for field in schema:
        if field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
    return rows.select(schema.names).cast(schema)


def _scored(row: Mapping[str, Any]) -> Scored:
    return Scored(row["model_version"], row["model_digest"], Limits(row["threshold"], row["review_threshold"]))


def _with(rows: pa.Table, name: str, values: Any) -> pa.Table:
    return rows.set_column(rows.schema.get_field_index(name), name, values)


def _decided(category: str, files: Mapping[str, Sequence[str]]) -> Decided:
    runs, scored = Counter[str](), dict[Scored, None]()
    for uri in files[SCORES.name]:
        for group in row_groups(uri, ["run_id", *DECIDED_BY]):
            kinds = group.group_by(["run_id", *DECIDED_BY]).aggregate([([], "count_all")])
            for kind in kinds.to_pylist():
                runs[kind["run_id"]] += kind["count_all"]
                if kind["threshold"] is not None:
                    scored[_scored(kind)] = None
    return Decided(category, dict(sorted(runs.items())), list(scored), files)


def _files_of(output: str, dt: date) -> dict[str, dict[str, list[str]]]:
    """Category to table to the files of a day, in order; those of a publication that was killed do not count."""
    try:
        runs = set(run_ids(output))
    except FileNotFoundError:
        return {}
    found: dict[str, dict[str, list[str]]] = {}
    for table in (SCORES, MAPS):
        for name in list_folders(join(output, table.name, f"dt={dt}")):
            category = unquote(name.removeprefix("category="))
            uris = [uri for uri in parquet_files(partition(output, table, dt, category)) if run_of(uri) in runs]
            if uris:
                found.setdefault(category, {SCORES.name: [], MAPS.name: []})[table.name] = uris
    return found
