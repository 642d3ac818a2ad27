"""BRIDGE: stored scores decided anew by other thresholds. No image is read, and the result is a run like any other.

    rows of the day -> limits of each category -> the same files with other status, thresholds and run id -> published

The run file says by the option `redecided` which runs the scores came from, and what they were decided by.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from differnet_ray.errors import ConfigError, StorageError
from differnet_ray.model.calibration import conformal_threshold
from differnet_ray.results.publish import finish_all, replace_partitions, run_record_of
from differnet_ray.results.runs import Run, parquet_files, partition, plan_run, published_schema, run_ids, run_of
from differnet_ray.storage.files import list_folders, open_input, write_bytes
from differnet_ray.storage.locations import join
from differnet_ray.store.model_store import ModelStore
from differnet_ray.tables import MAPS, SCORES, status_of


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
class Decided:
    """The published rows of a day and category, and what they were decided by.

    Attributes:
        category: theirs.
        run_id: of the run that published them.
        version, digest: of the model that scored them.
        limits: None where no image has a score.
        files: table to URIs, in order.
    """

    category: str
    run_id: str
    version: str
    digest: str
    limits: Limits | None
    files: Mapping[str, Sequence[str]]


def limits_of_rate(store: ModelStore, category: str, version: str, target_fpr: float) -> Limits:
    """What a share `target_fpr` of good images is over, by the calibration set of a model, as `fit` finds it.

    Raises:
        ModelStoreError: the model is not there or damaged.
    """
    scores = store.calibration(category, version)["anomaly_score"].to_numpy()
    review_fpr = store.record(category, version)["recipe"]["calibration"]["review_fpr"]
    threshold = conformal_threshold(scores, target_fpr).value
    return Limits(threshold, min(threshold, conformal_threshold(scores, max(target_fpr, review_fpr)).value))


def decided(output: str, dt: date, categories: Sequence[str] = ()) -> list[Decided]:
    """What is published for a day, of some categories or of all.

    Raises:
        ConfigError: nothing is, or not of a category that was asked for.
        StorageError: rows of two runs stand in one category.
    """
    finish_all(output)
    return [_decided(dt, category, files) for category, files in published_files(output, dt, categories).items()]


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
    output: str, dt: date, rows: Sequence[Decided], limits: Mapping[str, Limits], libraries: Mapping[str, str]
) -> dict[str, Any] | None:
    """Publishes stored scores as they are decided by other limits; None where all have been decided by these already.

    To be called within `publishing`, from `decided` on.

    Maps stay with their images. An image that is flagged now and was not has none: `score` makes it.

    Args:
        output: canonical URI of the results.
        dt: the day.
        rows: of that day.
        limits: category to its limits.
        libraries: versions, for the run file.

    Returns:
        The content of the run file.
    """
    rows = [rows_of for rows_of in rows if rows_of.limits and rows_of.limits != limits[rows_of.category]]
    if not rows:
        return None
    sources = {of_category.category: of_category.run_id for of_category in rows}
    lineage = {name: {"from": run_id, **asdict(limits[name])} for name, run_id in sources.items()}
    run = plan_run(
        dt=dt,
        listing_digest=hashlib.sha256(json.dumps(sorted(sources.items())).encode()).hexdigest(),
        models={of_category.category: (of_category.version, of_category.digest) for of_category in rows},
        options={"redecided": json.dumps(lineage)},
    )

    def write() -> tuple[set[str], dict[str, Any]]:
        written, counts, n_maps = set[str](), dict[str, dict[str, int]](), 0
        for of_category in rows:
            uris, statuses, maps = _write(output, run, of_category, limits[of_category.category])
            written |= uris
            counts[of_category.category], n_maps = dict(sorted(statuses.items())), n_maps + maps
        return written, run_record_of(run, counts, n_maps, libraries)

    return replace_partitions(output, run, sources, write)


def _write(output: str, run: Run, rows: Decided, limits: Limits) -> tuple[set[str], Counter[str], int]:
    """Writes the files of a category anew; returns their URIs, the statuses and the number of maps."""
    written, statuses, n_maps = set[str](), Counter[str](), 0
    for table in (SCORES, MAPS):
        schema = published_schema(table, run.run_id)
        for part, uri in enumerate(rows.files[table.name]):
            sink = io.BytesIO()
            with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
                for group in _row_groups(uri):
                    changed = _with(group, "run_id", pa.repeat(run.run_id, group.num_rows))
                    if table is SCORES:
                        changed = _decide(changed, limits)
                        statuses.update(changed["status"].to_pylist())
                    else:
                        n_maps += changed.num_rows
                    writer.write_table(changed.cast(schema))
            target = join(partition(output, table, run.dt, rows.category), f"{run.run_id}-{part:05d}.parquet")
            write_bytes(target, sink.getvalue())
            written.add(target)
    return written, statuses, n_maps


def _decide(rows: pa.Table, limits: Limits) -> pa.Table:
    scores = rows["anomaly_score"]
    status = [
        was if score is None else status_of(score, limits.threshold, limits.review_threshold)
        for score, was in zip(scores.to_pylist(), rows["status"].to_pylist(), strict=True)
    ]
    rows = _with(rows, "status", pa.array(status, pa.string()))
    for name, value in asdict(limits).items():
        rows = _with(rows, name, pc.if_else(pc.is_valid(scores), value, pa.scalar(None, pa.float64())))
    return rows


def _with(rows: pa.Table, name: str, values: Any) -> pa.Table:
    return rows.set_column(rows.schema.get_field_index(name), name, values)


def _decided(dt: date, category: str, files: Mapping[str, Sequence[str]]) -> Decided:
    columns = ["run_id", "model_version", "model_digest", "threshold", "review_threshold"]
    found: dict[tuple[Any, ...], None] = {}
    for uri in files["scores"]:
        for group in _row_groups(uri, columns):
            kinds = group.group_by(columns).aggregate([])
            found |= dict.fromkeys(tuple(row[name] for name in columns) for row in kinds.to_pylist())
    runs = sorted({kind[0] for kind in found})
    if len(runs) != 1:
        raise StorageError(
            f"{category}: the rows of {dt} are of the runs {', '.join(runs)}, expected one: score the day with --no-resume"
        )
    scored = [kind for kind in found if kind[3] is not None]
    if len(scored) > 1:
        raise StorageError(
            f"{category}: the scores of {dt} are of {len(scored)} models or decisions: score the day again, with --no-resume"
        )
    if not scored:
        return Decided(category, runs[0], "", "", None, files)
    ((_, version, digest, threshold, review),) = scored
    return Decided(category, runs[0], version, digest, Limits(threshold, review), files)


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


def _row_groups(uri: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    with open_input(uri) as source, pq.ParquetFile(source) as file:
        for n in range(file.num_row_groups):
            yield file.read_row_group(n, columns=columns)
