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
from staged_runs import (
    CATEGORIES,
    DAY,
    LIBRARIES,
    MAP_SHAPE,
    SMALL,
    a_run,
    by_id,
    files,
    manifest_of,
    map_of,
    parquet,
    parquet_files,
    publish_staged,
    published_run,
    scored,
    stage,
)

from differnet_ray.errors import ConfigError, ReconciliationError, TableError
from differnet_ray.results import staged_run
from differnet_ray.results.runs import published, read_table, stage_manifest, staged_counts, staging, write_manifest
from differnet_ray.storage.locations import canonical
from differnet_ray.table_contract import Table
from differnet_ray.tables import MAPS, RUNS, SCORES, STAGED, STATUSES, check_category, conform


def write_small(uri: str) -> None:
    """Writes the manifest of the small plant."""
    write_manifest(uri, SMALL)


PARTITIONS = ["100%25%20wool", "screw"]
BOTH_TABLES = pytest.mark.parametrize("table", [SCORES, MAPS], ids=lambda table: table.name)


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


@settings(max_examples=6, deadline=None)
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
    record = publish_staged(output, run)
    assert by_id(read_table(output, SCORES)) == by_id(rows.select(SCORES.schema.names))
    assert record["counts"] == dict(Counter(rows["status"].to_pylist()))
    assert sum(record["counts"].values()) == record["n_images"] == SMALL.num_rows
    assert record["n_maps"] == rows["status"].to_pylist().count("anomalous")


def test_rows_are_sorted_by_time_then_name_and_those_without_a_time_come_last(output: str) -> None:
    run = a_run()
    rows = scored(SMALL, run)
    stage(output, run, rows.take(np.random.default_rng(0).permutation(rows.num_rows)))
    publish_staged(output, run)
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


def test_the_longest_category_that_is_allowed_can_be_published(output: str) -> None:
    category = "漢" * 27  # 27 times 9 bytes once percent-encoded
    check_category(category)
    with pytest.raises(ConfigError, match="not a usable name"):
        check_category(category + "漢")
    published_run(output, a_run(), manifest_of([category]))
    assert read_table(output, SCORES, category=category).num_rows == 9


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


def test_a_large_table_is_split_into_files_of_bounded_length(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staged_run, "ROWS_PER_FILE", {"scores": 4, "maps": 2})
    run = a_run()
    published_run(output, run)
    assert [pq.read_metadata(path).num_rows for path in sorted(parquet_files(output, SCORES))] == [4, 4, 1] * 2
    assert by_id(read_table(output, SCORES)) == by_id(scored(SMALL, run).select(SCORES.schema.names))
    uris = [pq.read_table(path)["uri"].to_pylist() for path in sorted(parquet_files(output, SCORES))]
    whole = read_table(output, SCORES, category="screw").sort_by([("captured_at", "ascending"), ("uri", "ascending")])
    assert [uri for part in uris[3:] for uri in part] == whole["uri"].to_pylist()


@pytest.mark.parametrize("n_files", [1, 5])
def test_maps_fill_their_files_however_many_were_staged(n_files: int, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staged_run, "ROWS_PER_FILE", {"scores": 100, "maps": 4})
    run = a_run()
    rows = scored(SMALL, run, ["anomalous"])
    stage(output, run, rows, n_files)
    publish_staged(output, run)
    assert [pq.read_metadata(path).num_rows for path in sorted(parquet_files(output, MAPS))] == [4, 4, 1] * 2
    assert by_id(read_table(output, MAPS)) == by_id(rows.select(MAPS.schema.names))


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


def test_of_an_image_that_was_staged_twice_the_last_row_is_published(output: str) -> None:
    run = a_run()
    rows = scored(SMALL, run, scale=2.0, statuses=["anomalous", "ok"])
    first = scored(SMALL, run, scale=1.0, statuses=["anomalous"])
    earlier = pa.array([datetime(2026, 1, 30, tzinfo=UTC)] * first.num_rows, STAGED.field("scored_at").type)
    first = first.set_column(first.schema.get_field_index("scored_at"), STAGED.field("scored_at"), earlier)
    stage(output, run, pa.concat_tables([rows.slice(0, 9), first.slice(4), rows.slice(9)]))
    record = publish_staged(output, run)
    assert by_id(read_table(output, SCORES)) == by_id(rows.select(SCORES.schema.names))
    assert record["counts"] == {"anomalous": 9, "ok": 9}
    assert record["n_maps"] == 9
    assert sorted(read_table(output, MAPS)["image_id"].to_pylist()) == sorted(rows["image_id"].to_pylist()[::2])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows.slice(1), "of 18 images 1 have no row, 0 rows have no image"),
        pytest.param(
            lambda rows: rows.slice(0, 0),
            "of 18 images 18 have no row, 0 rows have no image",
        ),
        (
            lambda rows: pa.concat_tables([rows, scored(manifest_of(["nut"]), a_run())]),
            "0 have no row, 9 rows have no image",
        ),
        (
            lambda rows: pa.concat_tables([rows.slice(1), rows.slice(5, 1)]),
            "1 have no row, 0 rows have no image",
        ),
    ],
    ids=["one missing", "all missing", "unknown", "as many rows as images"],
)
def test_rows_that_do_not_reconcile_are_counted_and_nothing_is_published(change: Any, said: str, output: str) -> None:
    before = a_run(listing_digest="before")
    published_run(output, before)
    untouched = files(output)
    run = a_run()
    stage(output, run, change(scored(SMALL, run)))
    with pytest.raises(ReconciliationError, match=said) as caught:
        publish_staged(output, run)
    assert run.run_id in str(caught.value)
    assert {name: file for name, file in files(output).items() if not name.startswith("_staging/")} == untouched
    assert published(output, run) is None


def test_a_run_that_staged_nothing_does_not_reconcile(output: str) -> None:
    with pytest.raises(ReconciliationError, match="of 18 images 18 have no row"):
        publish_staged(output, a_run())


def test_staged_rows_of_another_schema_are_refused_and_nothing_is_published(output: str) -> None:
    run = a_run()
    rows = scored(SMALL, run)
    no_uri = pa.array([None] * rows.num_rows, pa.string())
    stage(output, run, rows.set_column(rows.schema.get_field_index("uri"), "uri", no_uri))
    with pytest.raises(TableError, match="'uri' is null"):
        publish_staged(output, run)
    assert files(output, "scores") == files(output, "runs") == {}


# --- staging ----------------------------------------------------------------------------------------------------------


def test_staging_is_removed_once_a_run_is_published_and_others_keep_theirs(output: str) -> None:
    run, other = a_run(), a_run(n_transforms="4")
    stage_manifest(output, other, write_small)
    stage_manifest(output, run, write_small)
    published_run(output, run)
    assert set(files(output, "_staging")) == {f"{other.run_id}/{name}" for name in ("fingerprint", "manifest/00000.parquet")}


def test_what_the_same_run_staged_stays_and_what_another_of_its_name_did_goes(output: str) -> None:
    run, other = a_run(run_id="night"), a_run(run_id="night", n_transforms="4")
    stage_manifest(output, run, write_small)
    stage(output, run, scored(SMALL, run))
    expected = files(output, "_staging")
    torn = Path(staging(output, run, "rows", "torn.parquet").removeprefix("file://"))
    torn.write_bytes(b"PAR1")
    assert sum(n for counts in staged_counts(output, run).values() for n in counts.values()) == SMALL.num_rows
    torn.unlink()
    stage_manifest(output, run, write_small)
    assert files(output, "_staging") == expected
    stage_manifest(output, other, write_small)
    assert staged_counts(output, other) == {}


def test_the_staged_manifest_is_the_manifest(output: str) -> None:
    run = a_run()
    uri = stage_manifest(output, run, write_small)
    assert uri == staging(output, run, "manifest") == f"{output}/_staging/{run.run_id}/manifest"
    assert pq.read_table(uri.removeprefix("file://")).equals(SMALL)


def test_staged_rows_of_a_running_job_are_not_seen(output: str) -> None:
    published_run(output, a_run())
    seen = read_table(output, SCORES)
    running = a_run(n_transforms="4")
    stage(output, running, scored(SMALL, running))
    assert read_table(output, SCORES).equals(seen)


# --- reading back -----------------------------------------------------------------------------------------------------


def test_files_from_before_a_column_was_added_have_nulls_in_it(output: str) -> None:
    published_run(output, a_run())
    for path in parquet_files(output, SCORES):
        rows = pq.ParquetFile(path).read()
        pq.write_table(rows.drop_columns(["captured_at", "p_value"]), path)
    rows = read_table(output, SCORES)
    assert rows.schema.equals(SCORES.schema)
    assert rows["p_value"].null_count == rows["captured_at"].null_count == SMALL.num_rows


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
