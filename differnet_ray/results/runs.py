"""Results of scoring runs: where they lie, what a run is, and what is staged; `publish.py` makes it visible.

OUTPUT/scores/dt=YYYY-MM-DD/category=NAME/RUN_ID-00000.parquet
OUTPUT/maps/dt=YYYY-MM-DD/category=NAME/RUN_ID-00000.parquet
OUTPUT/runs/RUN_ID.json
OUTPUT/runs/RUN_ID.no-category.csv                    images that could not be scored: of no category, or of several
OUTPUT/_index/*.parquet                               what is in archives that were read before
OUTPUT/_staging/RUN_ID/{manifest,rows}/*.parquet      work in progress; no reader looks here
OUTPUT/_staging/RUN_ID/fingerprint                    of what the work is
OUTPUT/_staging/RUN_ID.lease.json                     who does it
OUTPUT/_staging/RUN_ID/done/                          ids of finished rows, kept by Ray Data
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from differnet_ray.errors import ConfigError, StorageError
from differnet_ray.storage.files import arrow_filesystem, delete, exists, list_files, open_input, read_bytes, write_bytes
from differnet_ray.storage.locations import join, name_of
from differnet_ray.table_contract import Table
from differnet_ray.tables import MANIFEST, conform

MANIFEST_ROWS_PER_FILE, MANIFEST_ROWS_PER_GROUP = 100_000, 10_000
NO_CATEGORY, SEVERAL_CATEGORIES = "no category", "several categories"
NAMED_REASONS = (NO_CATEGORY, SEVERAL_CATEGORIES)  # of images that are not scored, but named
RUNS_FOLDER, STAGING_FOLDER = "runs", "_staging"
UNPLACED = "no-category.csv"
_PARTITIONING = ds.partitioning(pa.schema([("dt", pa.date32()), ("category", pa.string())]), flavor="hive")


@dataclass(frozen=True)
class Run:
    """What a scoring run is, before any image is read.

    Attributes:
        run_id: its name; from the fingerprint unless the user gave one.
        dt: the day of its partition.
        fingerprint: SHA-256 of listing, models and result-changing options: the same thing is the same run.
        models: category to (version, digest).
        options: result-changing options, as text.
        skipped: files of the archive that are not in the manifest, counted by reason.
    """

    run_id: str
    dt: date
    fingerprint: str
    listing_digest: str
    models: Mapping[str, tuple[str, str]]
    options: Mapping[str, str]
    started_at: datetime
    skipped: Mapping[str, int] = field(default_factory=dict)


def plan_run(
    *,
    dt: date,
    listing_digest: str,
    models: Mapping[str, tuple[str, str]],
    options: Mapping[str, str],
    run_id: str | None = None,
    skipped: Mapping[str, int] | None = None,
) -> Run:
    """Gives a run its identity, of which what is skipped is no part.

    Raises:
        ConfigError: `run_id` cannot be a file name.
    """
    identity = json.dumps([str(dt), listing_digest, sorted(models.items()), sorted(options.items())])
    fingerprint = hashlib.sha256(identity.encode()).hexdigest()
    run_id = run_id or f"{dt:%Y%m%d}-{fingerprint[:12]}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", run_id):
        raise ConfigError(f"run id {run_id!r}: expected up to 100 letters, digits, dots, dashes and underscores")
    return Run(run_id, dt, fingerprint, listing_digest, dict(models), dict(options), datetime.now(UTC), dict(skipped or {}))


def run_uri(output: str, run: Run) -> str:
    """URI of a run's file."""
    return join(output, RUNS_FOLDER, f"{run.run_id}.json")


def partition(output: str, table: Table, dt: date, category: str) -> str:
    """URI of the folder of the rows of a day and category."""
    # Spark decodes byte by byte: letters that are not ASCII stay as they are
    name = "".join(letter if ord(letter) > 127 else quote(letter, safe="") for letter in category)
    return join(output, table.name, f"dt={dt}", f"category={name}")


def run_of(uri: str) -> str:
    """The run that a published file is of, by its name."""
    return name_of(uri).rsplit("-", 1)[0]


def published_schema(table: Table, run_id: str) -> pa.Schema:
    """What the files of a run hold, with the footer that says so."""
    footer = {"differnet_ray.schema_version": f"{table.name} {table.version}", "differnet_ray.run_id": run_id}
    return table.file_schema.with_metadata(footer)


def staging(output: str, run: Run, *parts: str) -> str:
    """URI of a run's work in progress."""
    return join(output, STAGING_FOLDER, run.run_id, *parts)


def published(output: str, run: Run) -> dict[str, Any] | None:
    """The run's file if the same run has been published.

    Raises:
        ConfigError: another run has been published under the same id.
    """
    try:
        record: dict[str, Any] = json.loads(read_bytes(run_uri(output, run)))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise StorageError(f"{run_uri(output, run)} is damaged, not JSON: delete it, and the run is done again") from error
    if not isinstance(record, dict) or record.get("fingerprint") != run.fingerprint:
        raise ConfigError(
            f"run id {run.run_id!r} is taken by a run over other images, models or options ({run_uri(output, run)}): choose "
            "another --run-id or none"
        )
    return record


def stage_manifest(output: str, run: Run, write: Callable[[str], None]) -> str:
    """Stages the manifest as Parquet, which the job reads; returns the URI of its folder.

    What a run of the same fingerprint staged before it was killed stays, that of another under the same id goes.

    Args:
        output: canonical URI of the results.
        run: whose manifest it is.
        write: writes it below a URI, by `write_manifest`, and where there are any, the images without a category.
    """
    uri, mark = staging(output, run, "manifest"), staging(output, run, "fingerprint")
    try:
        if read_bytes(mark).decode() == run.fingerprint:
            return uri
    except FileNotFoundError:
        pass
    delete(mark)  # first: what is half removed must not be taken for whole
    for part in ("manifest", f"manifest.{UNPLACED}", "rows", "done"):
        delete(staging(output, run, part))
    write(uri)
    write_bytes(mark, run.fingerprint.encode())
    return uri


def write_manifest(uri: str, manifest: pa.Table, unplaced: pa.Table | None = None) -> None:
    """Writes manifest rows as Parquet files below a URI, and the names of images without one category as CSV beside it."""
    for part, start in enumerate(range(0, manifest.num_rows, MANIFEST_ROWS_PER_FILE)):
        rows = manifest.slice(start, MANIFEST_ROWS_PER_FILE)
        write_bytes(join(uri, f"{part:05d}.parquet"), _parquet(rows, row_group_size=MANIFEST_ROWS_PER_GROUP))
    if unplaced is not None and unplaced.num_rows:
        sink = io.BytesIO()
        pyarrow.csv.write_csv(unplaced.select(["uri", "member", "categories"]), sink)
        write_bytes(f"{uri}.{UNPLACED}", sink.getvalue())


def read_manifest_file(uri: str) -> pa.Table:
    """The rows of a file of `write_manifest`."""
    with open_input(uri) as file:
        return conform(pq.read_table(file), MANIFEST.schema)


def staged_counts(output: str, run: Run) -> dict[str, dict[str, int]]:
    """Rows that a run has staged so far: category to status to how many."""
    tables = []
    for uri in parquet_files(staging(output, run, "rows")):
        with suppress(FileNotFoundError), open_input(uri) as file, suppress(pa.ArrowException):
            # one that was cut off by a kill is removed by Ray Data
            tables.append(pq.read_table(file, columns=["category", "status"]))
    return count_statuses(pa.concat_tables(tables)) if tables else {}


def count_statuses(rows: pa.Table) -> dict[str, dict[str, int]]:
    """Category to status to how many rows of a table there are."""
    counts: dict[str, dict[str, int]] = {}
    grouped = rows.group_by(["category", "status"]).aggregate([([], "count_all")])
    for row in grouped.sort_by([("category", "ascending"), ("status", "ascending")]).to_pylist():
        counts.setdefault(row["category"], {})[row["status"]] = row["count_all"]
    return counts


def open_table(output: str, table: Table, *, dt: date | None = None, category: str | None = None) -> ds.Dataset:
    """Published rows of `scores` or `maps`, of one day and category or of all, with the declared schema.

    Raises:
        FileNotFoundError: nothing has been published there.
    """
    whole = join(output, table.name)
    filesystem, root = arrow_filesystem(whole)
    try:
        found = ds.dataset(
            root if dt is None else f"{root}/dt={dt}",
            filesystem=filesystem,
            format="parquet",
            partitioning=_PARTITIONING,
            partition_base_dir=root,
            schema=table.schema,
        )
    except FileNotFoundError:
        if dt is None or not exists(whole):
            raise
        return ds.FileSystemDataset([], table.schema, ds.ParquetFileFormat(), filesystem)
    except OSError as error:
        raise StorageError(f"cannot list {whole}: {error}") from error
    if category is not None:
        found = found.filter(pc.field("category") == category)
    return found


def read_table(output: str, table: Table, *, dt: date | None = None, category: str | None = None) -> pa.Table:
    """The rows of `open_table`, in memory."""
    return conform(open_table(output, table, dt=dt, category=category).to_table(), table.schema)


def _parquet(table: pa.Table, *, row_group_size: int) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=row_group_size)
    return sink.getvalue()


def no_category_uri(output: str, run_id: str) -> str:
    """Where the images of a run are named of which nothing says the category, or that are said to be of several."""
    return join(output, RUNS_FOLDER, f"{run_id}.{UNPLACED}")


def parquet_files(uri: str) -> list[str]:
    """URIs of the Parquet files below a location, sorted; none where nothing is there."""
    try:
        return sorted(file.uri for file in list_files(uri) if file.uri.endswith(".parquet"))
    except FileNotFoundError:
        return []


def run_ids(output: str) -> list[str]:
    """The published runs, sorted.

    Raises:
        FileNotFoundError: nothing has been published there.
    """
    files = list_files(join(output, RUNS_FOLDER))
    return sorted(name_of(file.uri).removesuffix(".json") for file in files if file.uri.endswith(".json"))
