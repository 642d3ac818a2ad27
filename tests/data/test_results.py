"""Staged rows become results whole or not at all, each image once, and the same run is the same bytes."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from staged_runs import CATEGORIES, DAY, MAP_SHAPE, a_run, manifest_of, map_of, scored, stage

from differnet_ray.data import results
from differnet_ray.data.results import Run, publish, published, read_table, staging, write_manifest
from differnet_ray.data.storage import canonical
from differnet_ray.data.tables import MAPS, RUNS, SCORES, STATUSES, Table, conform
from differnet_ray.errors import ConfigError, ReconciliationError, StorageError, TableError

LIBRARIES = {"differnet-ray": "0.1.0", "torch": "2.11"}
PARTITIONS = ["100%25%20wool", "screw"]
SMALL = manifest_of(("100% wool", "screw"))
BOTH_TABLES = pytest.mark.parametrize("table", [SCORES, MAPS], ids=lambda table: table.name)


@pytest.fixture
def output(tmp_path: Path) -> str:
    """The URI of an empty place for results."""
    return canonical(str(tmp_path / "output"))


def published_run(output: str, run: Run, manifest: pa.Table = SMALL, **how: Any) -> dict[str, Any]:
    """Stages one row for each image of the manifest and publishes them; returns the record of the run."""
    stage(output, run, scored(manifest, run, **how))
    return publish(output, run, manifest, LIBRARIES)


def files(output: str, *parts: str) -> dict[str, tuple[int, bytes]]:
    """Returns every file below a folder of the output: path -> (modification time, content)."""
    root = Path(output.removeprefix("file://"), *parts)
    found = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def parquet(output: str, table: Table, category: str = "screw") -> Path:
    """Returns the only file of a partition."""
    (path,) = Path(output.removeprefix("file://"), table.name, f"dt={DAY}", f"category={category}").iterdir()
    return path


def by_id(table: pa.Table) -> dict[str, dict[str, Any]]:
    """Returns image id -> row."""
    return {row["image_id"]: row for row in table.to_pylist()}


# --- what is published ------------------------------------------------------------------------------------------------


def test_files_lie_where_the_contract_says(output: str) -> None:
    run = a_run()
    published_run(output, run)
    assert sorted(files(output)) == [
        *[f"maps/dt=2026-01-31/category={name}/{run.run_id}-00000.parquet" for name in PARTITIONS],
        f"runs/{run.run_id}.json",
        *[f"scores/dt=2026-01-31/category={name}/{run.run_id}-00000.parquet" for name in PARTITIONS],
    ]


def test_every_row_is_published_as_it_was_staged(output: str) -> None:
    run, manifest = a_run(), manifest_of(CATEGORIES)
    rows = scored(manifest, run)
    published_run(output, run, manifest)
    assert by_id(read_table(output, SCORES)) == by_id(rows.select(SCORES.schema.names))
    with_map = rows.filter(rows["gradient_map"].is_valid()).select(MAPS.schema.names)
    assert with_map.num_rows == len(CATEGORIES)
    assert by_id(read_table(output, MAPS)) == by_id(with_map)


@settings(max_examples=15, deadline=None)
@given(
    statuses=st.lists(st.sampled_from(STATUSES), min_size=1, max_size=9),
    n_files=st.integers(1, 5),
    order=st.randoms(use_true_random=False),
)
def test_nothing_is_lost_or_added_whatever_was_staged_in_whatever_order(
    statuses: list[str], n_files: int, order: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    output, run = canonical(str(tmp_path_factory.mktemp("output"))), a_run()
    rows = scored(SMALL, run, statuses)
    shuffled = list(range(rows.num_rows))
    order.shuffle(shuffled)
    stage(output, run, rows.take(shuffled), n_files)
    record = publish(output, run, SMALL, LIBRARIES)
    assert by_id(read_table(output, SCORES)) == by_id(rows.select(SCORES.schema.names))
    assert record["counts"] == dict(Counter(rows["status"].to_pylist()))
    assert sum(record["counts"].values()) == record["n_images"] == SMALL.num_rows
    assert record["n_maps"] == rows["status"].to_pylist().count("anomalous")


def test_rows_are_sorted_by_time_then_name_and_those_without_a_time_come_last(output: str) -> None:
    run = a_run()
    rows = scored(SMALL, run)
    stage(output, run, rows.take(np.random.default_rng(0).permutation(rows.num_rows)))
    publish(output, run, SMALL, LIBRARIES)
    last = datetime.max.replace(tzinfo=UTC)
    for category in ("screw", "100% wool"):
        found = read_table(output, SCORES, category=category).to_pylist()
        assert len(found) == 9
        keys = [(row["captured_at"] or last, row["uri"], row["member"] or "") for row in found]
        assert keys == sorted(keys)
    maps = read_table(output, MAPS, category="screw")["image_id"].to_pylist()
    assert maps == sorted(maps)


@BOTH_TABLES
def test_files_hold_the_columns_of_the_contract_but_those_of_the_path(table: Table, output: str) -> None:
    published_run(output, a_run())
    schema = pq.read_schema(parquet(output, table))
    assert schema.names == table.file_schema.names
    assert schema.types == table.file_schema.types
    assert not {"dt", "category"} & set(schema.names)
    described = {field.name: field.metadata[b"description"] for field in schema}
    assert described == {field.name: field.metadata[b"description"] for field in table.file_schema}


@BOTH_TABLES
def test_the_footer_tells_schema_version_and_run(table: Table, output: str) -> None:
    run = a_run()
    published_run(output, run)
    metadata = pq.read_metadata(parquet(output, table)).metadata
    assert metadata[b"differnet_ray.schema_version"] == f"{table.name} {table.version}".encode()
    assert metadata[b"differnet_ray.run_id"] == run.run_id.encode()


@BOTH_TABLES
def test_columns_are_compressed_by_zstd_and_carry_statistics(table: Table, output: str) -> None:
    published_run(output, a_run())
    group = pq.read_metadata(parquet(output, table)).row_group(0)
    columns = [group.column(n) for n in range(group.num_columns)]
    assert {column.compression for column in columns} == {"ZSTD"}
    assert all(column.is_stats_set for column in columns)
    if table is SCORES:
        (score,) = [column.statistics for column in columns if column.path_in_schema == "anomaly_score"]
        scores = pc.min_max(read_table(output, SCORES, category="screw")["anomaly_score"]).as_py()
        assert {"min": score.min, "max": score.max} == scores


def test_gradient_maps_come_back_as_float16(output: str) -> None:
    published_run(output, a_run(), statuses=["anomalous"])
    rows = read_table(output, MAPS).to_pylist()
    assert len(rows) == SMALL.num_rows
    for row in rows:
        values = np.frombuffer(row["gradient_map"], "<f2").reshape(row["map_height"], row["map_width"])
        assert values.shape == MAP_SHAPE
        np.testing.assert_array_equal(values, map_of(row["image_id"]), strict=True)


def test_a_run_without_maps_writes_none(output: str) -> None:
    record = published_run(output, a_run(), statuses=["ok", "missing"])
    assert record["n_maps"] == 0
    assert files(output, "maps") == {}


def test_large_tables_are_split_into_files_of_bounded_length(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "ROWS_PER_FILE", {"scores": 4, "maps": 2})
    run = a_run()
    rows = scored(SMALL, run, ["anomalous"])
    stage(output, run, rows, n_files=1)
    publish(output, run, SMALL, LIBRARIES)
    lengths = {
        table.name: [pq.read_metadata(p).num_rows for p in sorted(parquet_files(output, table))] for table in (SCORES, MAPS)
    }
    assert lengths == {"scores": [4, 4, 1] * 2, "maps": [2, 2, 2, 2, 1] * 2}
    assert by_id(read_table(output, SCORES)) == by_id(rows.select(SCORES.schema.names))
    found = read_table(output, SCORES, category="screw")
    assert (
        found["image_id"].to_pylist()
        == found.sort_by([("captured_at", "ascending"), ("uri", "ascending")])["image_id"].to_pylist()
    )


def parquet_files(output: str, table: Table) -> list[Path]:
    """Returns all files of a table."""
    return list(Path(output.removeprefix("file://"), table.name).rglob("*.parquet"))


# --- the record of the run --------------------------------------------------------------------------------------------


def test_the_record_of_a_run_has_the_keys_and_types_of_its_contract(output: str) -> None:
    run = a_run()
    record = published_run(output, run)
    assert list(record) == RUNS.schema.names
    assert record == json.loads(Path(output.removeprefix("file://"), "runs", f"{run.run_id}.json").read_text())
    row = record | {"category_counts": {name: list(counts.items()) for name, counts in record["category_counts"].items()}}
    row = {key: list(value.items()) if isinstance(value, dict) else value for key, value in row.items()}
    row |= {key: datetime.fromisoformat(row[key]) for key in ("started_at", "finished_at")}
    table = conform(pa.Table.from_pylist([row | {"dt": date.fromisoformat(row["dt"])}], schema=RUNS.schema), RUNS.schema)
    assert table["finished_at"][0].as_py() >= table["started_at"][0].as_py()


def test_the_record_of_a_run_says_what_it_was(output: str) -> None:
    run = a_run(n_transforms="16")
    record = published_run(output, run)
    assert (record["run_id"], record["dt"], record["fingerprint"]) == (run.run_id, "2026-01-31", run.fingerprint)
    assert record["options"] == {"maps": "flagged", "n_transforms": "16"}
    assert record["models"] == {"screw": "20260101T000000Z-aaaaaaaa", "100% wool": "20260102T000000Z-bbbbbbbb"}
    assert record["model_digests"] == {"screw": "a" * 64, "100% wool": "b" * 64}
    assert record["libraries"] == LIBRARIES


def test_counts_reconcile_by_status_and_by_category(output: str) -> None:
    run, manifest = a_run(), manifest_of(CATEGORIES)
    record = published_run(output, run, manifest, statuses=["ok", "ok", "anomalous", "unreadable", "no_model"])
    assert record["n_images"] == manifest.num_rows == sum(record["counts"].values())
    assert set(record["category_counts"]) == set(CATEGORIES)
    assert all(sum(counts.values()) == 9 for counts in record["category_counts"].values())
    total: Counter[str] = Counter()
    for counts in record["category_counts"].values():
        total.update(counts)
    assert total == Counter(record["counts"])


# --- rows that are not the images of the manifest ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows.slice(1), "of 18 images 1 have no row, 0 rows have no image, 0 rows are repeated"),
        (lambda rows: rows.slice(0, 0), "of 18 images 18 have no row, 0 rows have no image, 0 rows are repeated"),
        (lambda rows: pa.concat_tables([rows, rows.slice(3, 2)]), "0 have no row, 0 rows have no image, 2 rows are repeated"),
        (
            lambda rows: pa.concat_tables([rows, scored(manifest_of(["nut"]), a_run())]),
            "0 have no row, 9 rows have no image, 0 rows are repeated",
        ),
        (
            lambda rows: pa.concat_tables([rows.slice(1), rows.slice(5, 1)]),
            "1 have no row, 0 rows have no image, 1 rows are repeated",
        ),
    ],
    ids=["one missing", "all missing", "repeated", "unknown", "as many rows as images"],
)
def test_rows_that_do_not_reconcile_are_counted_and_nothing_is_published(change: Any, said: str, output: str) -> None:
    before = a_run(listing_digest="before")
    published_run(output, before)
    untouched = files(output)
    run = a_run()
    stage(output, run, change(scored(SMALL, run)))
    with pytest.raises(ReconciliationError, match=said) as caught:
        publish(output, run, SMALL, LIBRARIES)
    assert run.run_id in str(caught.value)
    assert {name: file for name, file in files(output).items() if not name.startswith("_staging/")} == untouched
    assert published(output, run) is None


def test_a_run_that_staged_nothing_does_not_reconcile(output: str) -> None:
    with pytest.raises(ReconciliationError, match="of 18 images 18 have no row"):
        publish(output, a_run(), SMALL, LIBRARIES)


def test_staged_rows_of_another_schema_are_refused_and_nothing_is_published(output: str) -> None:
    run = a_run()
    rows = scored(SMALL, run)
    no_uri = pa.array([None] * rows.num_rows, pa.string())
    stage(output, run, rows.set_column(rows.schema.get_field_index("uri"), "uri", no_uri))
    with pytest.raises(TableError, match="'uri' is null"):
        publish(output, run, SMALL, LIBRARIES)
    assert files(output, "scores") == files(output, "runs") == {}


# --- publishing again, and over others --------------------------------------------------------------------------------


def test_publishing_a_run_twice_changes_no_byte(output: str) -> None:
    run = a_run()
    published_run(output, run)
    first = files(output)
    published_run(output, run)
    second = files(output)
    assert list(second) == list(first)
    assert all(second[name][1] == first[name][1] for name in first if not name.startswith("runs/"))
    records = [json.loads(content[f"runs/{run.run_id}.json"][1]) for content in (first, second)]
    assert records[0] | {"finished_at": ""} == records[1] | {"finished_at": ""}


def test_the_order_in_which_rows_were_staged_changes_no_byte(output: str) -> None:
    run = a_run()
    rows = scored(SMALL, run, ["anomalous", "ok", "anomalous"])
    contents = []
    for order, n_files in ((range(18), 1), (range(17, -1, -1), 1), (range(17, -1, -1), 7)):
        stage(output, run, rows.take(list(order)), n_files)
        publish(output, run, SMALL, LIBRARIES)
        contents.append({name: data for name, (_, data) in files(output).items() if not name.startswith("runs/")})
    assert contents[1] == contents[0]
    assert contents[2] == contents[0]


def test_a_second_run_replaces_what_the_same_day_and_category_held(output: str) -> None:
    other_day = a_run(dt=DAY - timedelta(days=1))
    published_run(output, other_day)
    first = a_run(n_transforms="4")
    published_run(output, first)
    before = files(output)
    second = a_run(n_transforms="8")
    screws = manifest_of(["screw"], per_category=4)
    published_run(output, second, screws, statuses=["ok", "anomalous"])
    after = files(output)
    in_screw = [name for name in after if f"dt={DAY}/category=screw" in name]
    assert sorted(in_screw) == [f"{t}/dt={DAY}/category=screw/{second.run_id}-00000.parquet" for t in ("maps", "scores")]
    kept = {name for name in before if f"dt={DAY}/category=screw" not in name}
    assert len(kept) == 8  # two tables in three partitions, and two records
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert set(after) == kept | set(in_screw) | {f"runs/{second.run_id}.json"}
    assert by_id(read_table(output, SCORES, dt=DAY, category="screw")) == by_id(
        scored(screws, second, ["ok", "anomalous"]).select(SCORES.schema.names)
    )


def test_a_second_run_without_maps_leaves_no_map_of_the_first(output: str) -> None:
    published_run(output, a_run(n_transforms="4"))
    assert files(output, "maps")
    published_run(output, a_run(n_transforms="8"), statuses=["ok"])
    assert files(output, "maps") == {}


def test_a_run_of_fewer_files_leaves_none_of_its_own_old_ones(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_run(run_id="nightly")
    with monkeypatch.context() as patch:
        patch.setattr(results, "ROWS_PER_FILE", {"scores": 2, "maps": 1})
        published_run(output, run)
    assert len(files(output, "scores")) == 10
    published_run(output, run)
    assert len(files(output, "scores")) == 2
    assert read_table(output, SCORES).num_rows == SMALL.num_rows


@pytest.mark.parametrize("fails_at", range(1, 6))
def test_a_publication_that_failed_half_way_is_completed_by_the_next(
    fails_at: int, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    published_run(output, a_run(n_transforms="4"))
    run = a_run(n_transforms="8")
    stage(output, run, scored(SMALL, run, scale=2.0))
    with monkeypatch.context() as patch:
        fail_at(fails_at, patch)
        with pytest.raises(StorageError, match="the disk is full"):
            publish(output, run, SMALL, LIBRARIES)
    assert published(output, run) is None
    publish(output, run, SMALL, LIBRARIES)
    assert by_id(read_table(output, SCORES)) == by_id(scored(SMALL, run, scale=2.0).select(SCORES.schema.names))
    assert read_table(output, MAPS).num_rows == 2


@pytest.mark.parametrize("fails_at", range(1, 6))
def test_a_publication_that_failed_leaves_what_readers_see(fails_at: int, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    published_run(output, a_run(n_transforms="4"))
    seen = by_id(read_table(output, SCORES)), by_id(read_table(output, MAPS)), read_table(output, SCORES).num_rows
    run = a_run(n_transforms="8")
    stage(output, run, scored(SMALL, run, scale=2.0))
    fail_at(fails_at, monkeypatch)
    with pytest.raises(StorageError, match="the disk is full"):
        publish(output, run, SMALL, LIBRARIES)
    assert (by_id(read_table(output, SCORES)), by_id(read_table(output, MAPS)), read_table(output, SCORES).num_rows) == seen


def fail_at(call: int, patch: pytest.MonkeyPatch) -> None:
    """Makes the n-th write of a publication fail."""
    write, calls = results.write_bytes, []

    def failing(uri: str, data: bytes) -> None:
        calls.append(uri)
        if len(calls) == call:
            raise StorageError(f"cannot write {uri}: the disk is full")
        write(uri, data)

    patch.setattr(results, "write_bytes", failing)


# --- staging ----------------------------------------------------------------------------------------------------------


def test_staging_is_removed_once_a_run_is_published_and_others_keep_theirs(output: str) -> None:
    run, other = a_run(), a_run(n_transforms="4")
    write_manifest(output, other, SMALL)
    write_manifest(output, run, SMALL)
    published_run(output, run)
    assert list(files(output, "_staging")) == [f"{other.run_id}/manifest/manifest.parquet"]


def test_the_staged_manifest_is_the_manifest(output: str) -> None:
    run = a_run()
    uri = write_manifest(output, run, SMALL)
    assert uri == staging(output, run, "manifest") == f"{output}/_staging/{run.run_id}/manifest"
    assert pq.read_table(uri.removeprefix("file://")).equals(SMALL)


def test_staged_rows_of_a_running_job_are_not_seen(output: str) -> None:
    published_run(output, a_run())
    seen = read_table(output, SCORES)
    running = a_run(n_transforms="4")
    stage(output, running, scored(SMALL, running))
    assert read_table(output, SCORES).equals(seen)


# --- reading back -----------------------------------------------------------------------------------------------------


def test_read_table_gives_the_declared_schema_and_filters_by_day_and_category(output: str) -> None:
    days = [DAY, DAY - timedelta(days=1)]
    for day in days:
        published_run(output, a_run(dt=day), manifest_of(("0042", "Größe 漢", "screw")))
    for table, rows in ((SCORES, 9), (MAPS, 1)):
        everything = read_table(output, table)
        assert everything.schema.equals(table.schema, check_metadata=True)
        assert everything.num_rows == 6 * rows
        assert read_table(output, table, dt=days[1]).num_rows == 3 * rows
        assert read_table(output, table, category="Größe 漢").num_rows == 2 * rows
        one = read_table(output, table, dt=days[0], category="0042")
        assert set(zip(one["dt"].to_pylist(), one["category"].to_pylist(), strict=True)) == {(days[0], "0042")}
        assert one.num_rows == rows
        assert read_table(output, table, category="washer").num_rows == 0
        assert read_table(output, table, dt=date(1999, 1, 1)).schema.equals(table.schema)


def test_reading_what_was_never_published_is_an_answer(output: str) -> None:
    with pytest.raises(FileNotFoundError):
        read_table(output, SCORES)
