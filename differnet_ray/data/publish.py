"""Publishing a scoring run: staged rows are checked against the manifest, sorted and made visible, category by category.

    staging/RUN_ID/{manifest,rows} -> check each category -> write each category -> run file -> remove what was replaced

Categories are worked on apart, each in bounded memory: DuckDB sorts and compares, and puts on the local disk what is too large.
Readers see all images of a (dt, category) at any time: files that are replaced go last, by a list that a repeat goes on with.
"""

from __future__ import annotations

import io
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from itertools import chain, islice
from typing import Any
from urllib.parse import quote

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from differnet_ray.data.lease import lease
from differnet_ray.data.results import (
    RUNS_FOLDER,
    STAGING_FOLDER,
    UNPLACED,
    Run,
    no_category_uri,
    run_uri,
    staging,
)
from differnet_ray.data.storage import (
    StoredFile,
    delete,
    exists,
    join,
    list_files,
    list_folders,
    name_of,
    open_input,
    read_bytes,
    write_bytes,
)
from differnet_ray.data.tables import MAPS, RUNS, SCORES, STAGED, STATUSES, Table, conform
from differnet_ray.errors import LeaseError, ReconciliationError, StorageError, TableError
from differnet_ray.threads import map_ahead

# A map of 112 x 112 takes 25 kB: about 100 MB a file. Row groups of scores are what a reader skips; one of maps what it reads
ROWS_PER_FILE = {"scores": 1_000_000, "maps": 4_096}
ROWS_PER_GROUP = {"scores": 100_000, "maps": 64}
BYTES_PER_FILE = 2**27  # pictures of a map can be ten times as large as the map
ROWS_AT_ONCE = {"scores": 16_384, "maps": 256}
ORDER = {"scores": "captured_at, uri, member", "maps": "image_id"}  # nulls last
MEMORY = "1GB"  # of DuckDB, for a category
REPLACED = "replaced.json"
READ_THREADS = 8  # they wait for storage
PATIENCE, SECONDS_BETWEEN_LOOKS = 600.0, 2.0  # with another publication of the day

Each = Callable[[Callable[[str], Any], Iterable[str]], Iterable[Any]]
"""`map`, or what does the same elsewhere and side by side."""


@dataclass(frozen=True)
class Checked:
    """How the staged rows of a category compare with its images, which are the manifest's.

    Attributes:
        n_images: of the manifest.
        counts: status to rows, of which an image has one: the last that was staged.
        n_maps: rows with a gradient map.
        lost: images without a row.
        unknown: rows without an image.
        undecided: rows without a known status.
    """

    n_images: int
    counts: Mapping[str, int]
    n_maps: int
    lost: int
    unknown: int
    undecided: int


@dataclass(frozen=True)
class StagedRun:
    """What a run has staged, and in which files each category lies.

    Attributes:
        output: canonical URI of the results.
        run: whose rows they are.
        manifest, rows: category to URIs of files, of the manifest and of the staged rows.
    """

    output: str
    run: Run
    manifest: Mapping[str, Sequence[str]] = field(repr=False)
    rows: Mapping[str, Sequence[str]] = field(repr=False)

    @staticmethod
    def of(output: str, run: Run) -> StagedRun:
        """Looks into the staging folder of a run."""
        manifest, rows = (_files_of_categories(staging(output, run, part)) for part in ("manifest", "rows"))
        return StagedRun(output, run, manifest, rows)

    @property
    def categories(self) -> list[str]:
        """All of them, sorted."""
        return sorted({*self.manifest, *self.rows})

    def check(self, category: str) -> Checked:
        """Compares the rows of a category with its images."""
        with _database() as database:
            database.register("images", self._read(self.manifest, category, ["image_id"]))
            database.register("rows", self._read(self.rows, category, ["image_id", "status", "map_height", "scored_at"]))
            database.execute("CREATE TABLE image AS FROM images")
            database.execute(
                "CREATE TABLE row AS SELECT image_id, status, map_height FROM rows "
                "QUALIFY row_number() OVER (PARTITION BY image_id ORDER BY scored_at DESC NULLS LAST) = 1"
            )

            def count(rows: str) -> int:
                return int(database.sql(f"SELECT count(*) FROM {rows}").fetchall()[0][0])  # noqa: S608

            return Checked(
                n_images=count("image"),
                counts=dict(database.sql("SELECT status, count(*) FROM row GROUP BY status ORDER BY status").fetchall()),
                n_maps=count("row WHERE map_height IS NOT NULL"),
                lost=count("image ANTI JOIN row USING (image_id)"),
                unknown=count("row ANTI JOIN image USING (image_id)"),
                undecided=count(f"row WHERE status IS NULL OR status NOT IN {STATUSES}"),
            )

    def write(self, category: str) -> list[str]:
        """Writes the published files of a category and returns their URIs."""
        return [*self._write(SCORES, category), *self._write(MAPS, category)]

    def _write(self, table: Table, category: str) -> Iterator[str]:
        folder = partition(self.output, table, self.run.dt, category)
        columns = dict.fromkeys((*table.schema.names, "scored_at"))
        with _database() as database:
            database.register(
                "rows", self._read(self.rows, category, list(columns), threads=1 if table is MAPS else READ_THREADS)
            )
            query = f"SELECT {', '.join(table.schema.names)} FROM rows ORDER BY {ORDER[table.name]}, scored_at DESC"  # noqa: S608
            rows = _one_of_each_image(database.sql(query).to_arrow_reader(ROWS_AT_ONCE[table.name]))
            if table is MAPS:
                rows = (batch.filter(pc.is_valid(batch["map_height"])) for batch in rows)
            for part, content in enumerate(self._files(table, rows)):
                uri = join(folder, f"{self.run.run_id}-{part:05d}.parquet")
                write_bytes(uri, content)
                yield uri

    def _files(self, table: Table, batches: Iterator[pa.RecordBatch]) -> Iterator[bytes]:
        """Sorted rows as Parquet files."""
        schema = published_schema(table, self.run.run_id)
        per_group = min(ROWS_PER_GROUP[table.name], ROWS_PER_FILE[table.name])
        groups, per_file = _groups(batches, per_group), ROWS_PER_FILE[table.name] // per_group
        while some := next(groups, None):
            sink = io.BytesIO()
            with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
                for group in chain([some], islice(groups, per_file - 1)):
                    writer.write_table(conform(group, table.schema).select(schema.names).cast(schema))
                    if sink.tell() >= BYTES_PER_FILE:
                        break
            yield sink.getvalue()

    def _read(
        self, files: Mapping[str, Sequence[str]], category: str, columns: Sequence[str], threads: int = READ_THREADS
    ) -> pa.RecordBatchReader:
        """Some columns of all rows of a category, a file at a time."""
        tables = map_ahead(lambda uri: _rows_of(uri, category, columns), files.get(category, ()), threads)
        schema = pa.schema([STAGED.field(name).with_nullable(True) for name in columns])
        batches = (batch for table in tables for batch in table.cast(schema).to_batches())
        return pa.RecordBatchReader.from_batches(schema, batches)


def published_schema(table: Table, run_id: str) -> pa.Schema:
    """What the files of a run hold, with the footer that says so."""
    footer = {"differnet_ray.schema_version": f"{table.name} {table.version}", "differnet_ray.run_id": run_id}
    return table.file_schema.with_metadata(footer)


def publish(output: str, run: Run, libraries: Mapping[str, str], each: Each = map) -> dict[str, Any]:
    """Checks staged rows against the staged manifest and makes them visible.

    Killed at any moment, it is put right by a repeat; if that was after the run file, by `finish_publishing`.

    Args:
        output: canonical URI of the results.
        run: whose manifest and rows lie in its staging folder.
        libraries: versions, for the run file.
        each: works on the categories.

    Returns:
        The content of runs/RUN_ID.json.

    Raises:
        ReconciliationError: an image has no row, or a row has no image; nothing is published.
    """
    staged = StagedRun.of(output, run)
    checked = dict(zip(staged.categories, each(staged.check, staged.categories), strict=True))
    _reconcile(checked.values(), run)

    def write() -> tuple[set[str], dict[str, Any]]:
        written = {uri for uris in each(staged.write, staged.categories) for uri in uris}
        with suppress(FileNotFoundError):  # none, or none were there when the manifest was staged
            unplaced = read_bytes(f"{staging(output, run, 'manifest')}.{UNPLACED}")
            write_bytes(no_category_uri(output, run.run_id), unplaced)
        counts = {category: of_category.counts for category, of_category in checked.items()}
        return written, run_record_of(run, counts, sum(of_category.n_maps for of_category in checked.values()), libraries)

    with publishing(output, run.dt):
        return replace_partitions(output, run, staged.categories, write)


@contextmanager
def publishing(output: str, dt: date) -> Iterator[None]:
    """Waits for other publications of the same day, and keeps others waiting while the block runs.

    Raises:
        LeaseError: another one takes longer than `PATIENCE` seconds.
    """
    end = time.monotonic() + PATIENCE
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(lease(join(output, STAGING_FOLDER, f"dt={dt}.lease.json")))
                break
            except LeaseError:
                if time.monotonic() > end:
                    raise
                time.sleep(SECONDS_BETWEEN_LOOKS)
        yield


def replace_partitions(
    output: str, run: Run, categories: Iterable[str], write: Callable[[], tuple[set[str], dict[str, Any]]]
) -> dict[str, Any]:
    """Puts files in the place of those of some partitions: new files first, then the run file, then removal of the old ones.

    To be called within `publishing`. What fails before the run file takes its new files back. Whether a run file is there whose
    writing was interrupted cannot be known: then old and new files stay, and a repeat puts that right.

    Args:
        output: canonical URI of the results.
        run: that the files belong to.
        categories: with the day of the run, the partitions.
        write: writes the new files; returns their URIs and the content of the run file.

    Returns:
        The content of the run file.
    """
    folders = {partition(output, table, run.dt, category) for category in categories for table in (SCORES, MAPS)}
    before = _files_in(output, run.dt, folders)

    def take_back() -> None:  # readers must not find an image twice
        for uri in _files_in(output, run.dt, folders).keys() - before.keys():
            if run_of(uri) == run.run_id:
                delete(uri)

    try:
        written, record = write()
        replaced = {file.uri: file.etag for file in before.values() if file.uri not in written}
        write_bytes(staging(output, run, REPLACED), json.dumps(replaced).encode())
    except BaseException:
        take_back()
        raise
    try:
        write_bytes(run_uri(output, run), (json.dumps(record, indent=2) + "\n").encode())
    except StorageError:
        if not exists(run_uri(output, run)):
            take_back()
        raise
    finish_publishing(output, run.run_id)
    return record


def run_of(uri: str) -> str:
    """The run that a published file is of, by its name."""
    return name_of(uri).rsplit("-", 1)[0]


def finish_publishing(output: str, run_id: str) -> None:
    """Once the run file is there: removes the files that its rows replaced, and what was staged, if that is not done yet.

    Only the very files are removed that stood there then: a later run may have published others under their names.
    """
    folder = join(output, STAGING_FOLDER, run_id)
    try:
        replaced = json.loads(read_bytes(join(folder, REPLACED)))
    except FileNotFoundError:
        return
    for uri, etag in replaced.items():
        with suppress(FileNotFoundError):
            if [file.etag for file in list_files(uri)] == [etag]:
                delete(uri)
    for part in ("manifest", "rows", "done"):  # the list goes last, by which a repeat goes on
        delete(join(folder, part))
    delete(folder)


def finish_all(output: str) -> None:
    """Finishes the publications that were killed when their run file was there already."""
    for run_id in list_folders(join(output, STAGING_FOLDER)):
        if exists(join(output, RUNS_FOLDER, f"{run_id}.json")):
            finish_publishing(output, run_id)


def _files_of_categories(uri: str) -> dict[str, list[str]]:
    try:
        uris = sorted(file.uri for file in list_files(uri) if file.uri.endswith(".parquet"))
    except FileNotFoundError:
        return {}
    files: dict[str, list[str]] = {}
    for name, categories in zip(uris, map_ahead(_categories_in, uris, READ_THREADS), strict=True):
        for category in categories:
            files.setdefault(category, []).append(name)
    return files


# Through `open_input`: Arrow's own reads from S3 are not tried again when an answer was cut short
def _categories_in(uri: str) -> list[str]:
    with open_input(uri) as source, pq.ParquetFile(source) as file:
        categories: list[str] = pc.unique(file.read(columns=["category"])["category"]).to_pylist()
    return categories


def _rows_of(uri: str, category: str, columns: Sequence[str]) -> pa.Table:
    with open_input(uri) as source, pq.ParquetFile(source) as file:
        groups = [n for n in range(file.num_row_groups) if _may_hold(file.metadata.row_group(n), category)]
        rows = file.read_row_groups(groups, columns=list(dict.fromkeys([*columns, "category"])))
    return rows.filter(pc.field("category") == category).select(columns)


def _may_hold(group: pq.RowGroupMetaData, category: str) -> bool:
    (column,) = (group.column(n) for n in range(group.num_columns) if group.column(n).path_in_schema == "category")
    known = column.statistics
    return known is None or not known.has_min_max or known.min <= category <= known.max


@contextmanager
def _database() -> Iterator[duckdb.DuckDBPyConnection]:
    with (
        tempfile.TemporaryDirectory(prefix="differnet-ray-") as folder,
        duckdb.connect(config={"memory_limit": MEMORY, "temp_directory": folder, "threads": 1}) as database,
    ):
        database.execute("SET TimeZone = 'UTC'")
        yield database


def _one_of_each_image(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Leaves out rows that follow one of the same image."""
    last = None
    for batch in batches:
        ids = batch["image_id"]
        if not len(ids):
            continue
        before = pa.concat_arrays([pa.array([last], ids.type), ids.slice(0, len(ids) - 1)])
        yield batch.filter(pc.fill_null(pc.not_equal(ids, before), True))
        last = ids[-1].as_py()


def _groups(batches: Iterable[pa.RecordBatch], n: int) -> Iterator[pa.Table]:
    """The rows in tables of n, the last one of fewer."""
    waiting: pa.Table | None = None
    for batch in batches:
        waiting = pa.concat_tables([*([waiting] if waiting else []), pa.Table.from_batches([batch])])
        while waiting.num_rows >= n:
            yield waiting.slice(0, n)
            waiting = waiting.slice(n)
    if waiting:
        yield waiting


def _reconcile(checked: Iterable[Checked], run: Run) -> None:
    checked = list(checked)
    n_images, lost, unknown, undecided = (
        sum(getattr(of_category, name) for of_category in checked) for name in ("n_images", "lost", "unknown", "undecided")
    )
    if lost or unknown or undecided:
        raise ReconciliationError(
            f"run {run.run_id} does not reconcile and was not published: of {n_images} images {lost} have no row, "
            f"{unknown} rows have no image, {undecided} have no known status; --no-resume scores all of them again"
        )


def _files_in(output: str, dt: date, folders: Container[str]) -> dict[str, StoredFile]:
    """What is published now in some partitions of a day, by URI."""
    found = {}
    for table in (SCORES, MAPS):
        with suppress(FileNotFoundError):
            for file in list_files(join(output, table.name, f"dt={dt}")):
                if file.uri.removesuffix("/" + name_of(file.uri)) in folders and file.uri.endswith(".parquet"):
                    found[file.uri] = file
    return found


def run_record_of(
    run: Run, counts: Mapping[str, Mapping[str, int]], n_maps: int, libraries: Mapping[str, str]
) -> dict[str, Any]:
    """The content of a run file.

    Args:
        run: what it is.
        counts: category to status to rows.
        n_maps: rows with a gradient map.
        libraries: versions.
    """
    by_status = sum(map(Counter, counts.values()), Counter[str]())
    record = {
        "schema_version": RUNS.version,
        "run_id": run.run_id,
        "dt": str(run.dt),
        "fingerprint": run.fingerprint,
        "listing_digest": run.listing_digest,
        "options": dict(run.options),
        "models": {category: version for category, (version, _) in run.models.items()},
        "model_digests": {category: digest for category, (_, digest) in run.models.items()},
        "libraries": dict(libraries),
        "n_images": by_status.total(),
        "skipped": dict(run.skipped),
        "counts": dict(by_status),
        "category_counts": {category: dict(of_category) for category, of_category in counts.items()},
        "n_maps": n_maps,
        "started_at": run.started_at.isoformat(timespec="seconds"),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if list(record) != RUNS.schema.names:
        raise TableError(f"the run file has the keys {list(record)}, expected {RUNS.schema.names}")
    return record


def partition(output: str, table: Table, dt: date, category: str) -> str:
    """URI of the folder of the rows of a day and category."""
    # Spark decodes byte by byte: letters that are not ASCII stay as they are
    name = "".join(letter if ord(letter) > 127 else quote(letter, safe="") for letter in category)
    return join(output, table.name, f"dt={dt}", f"category={name}")
