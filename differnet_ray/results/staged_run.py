"""The rows that a scoring run has staged, category by category: compared with its images, sorted, written as published files.

Each category takes bounded memory: DuckDB sorts and compares, and puts on the local disk what is too large.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from differnet_ray.results.runs import Run, parquet_files, partition, published_schema, staging
from differnet_ray.results.sql import bounded_database
from differnet_ray.storage.files import open_input, write_bytes
from differnet_ray.storage.locations import join
from differnet_ray.table_contract import Table
from differnet_ray.tables import MAPS, SCORES, STAGED, STATUSES, conform
from differnet_ray.threads import map_ahead

# A map of 112 x 112 takes 25 kB: about 100 MB a file. Row groups of scores are what a reader skips; one of maps what it reads
ROWS_PER_FILE = {"scores": 1_000_000, "maps": 4_096}
ROWS_PER_GROUP = {"scores": 100_000, "maps": 64}
BYTES_PER_FILE = 2**27  # pictures of a map can be ten times as large as the map
ROWS_AT_ONCE = {"scores": 16_384, "maps": 256}
ORDER = {"scores": "captured_at, uri, member", "maps": "image_id"}  # nulls last
READ_THREADS = 8  # they wait for storage


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
        with bounded_database() as database:
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
        with bounded_database() as database:
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


def _files_of_categories(uri: str) -> dict[str, list[str]]:
    uris = parquet_files(uri)
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
