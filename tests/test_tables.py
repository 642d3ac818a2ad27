"""The declared tables: the published contracts are the code's, and no row passes `conform` with another shape."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from differnet_ray.errors import TableError
from differnet_ray.tables import (
    FETCHED,
    MANIFEST,
    MAPS,
    SCORED,
    SCORED_STATUSES,
    SCORES,
    STAGED,
    STATUSES,
    TABLES,
    Table,
    conform,
)

SCHEMAS = Path(__file__).parents[1] / "schemas"
EVERY_TABLE = pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
SMALL = pa.schema([pa.field("name", pa.string(), nullable=False), ("n", pa.int16()), ("score", pa.float64())])

# --- contracts --------------------------------------------------------------------------------------------------------


@EVERY_TABLE
def test_the_published_contract_is_the_one_of_the_code(table: Table) -> None:
    published = json.loads((SCHEMAS / f"{table.name}.json").read_text())
    assert published == table.contract(), "run: differnet-ray schemas --write schemas"


def test_every_file_in_schemas_is_the_contract_of_a_table() -> None:
    assert {path.name for path in SCHEMAS.glob("*.json")} == {f"{table.name}.json" for table in TABLES}


@EVERY_TABLE
def test_a_contract_only_grows(table: Table) -> None:
    """Each version that was ever published is kept: what it promised still holds, and what is new may be null."""
    now = {column["name"]: column for column in table.contract()["columns"]}
    versions = [json.loads(path.read_text()) for path in (SCHEMAS / "history").glob(f"{table.name}-*.json")]
    assert sorted(old["version"] for old in versions) == list(range(1, table.version + 1)), "copy schemas/*.json to history/"
    for old in versions:
        assert old["partition_by"] == list(table.partition_by)
        promised = {column["name"]: column for column in old["columns"]}
        for name, column in promised.items():
            assert [now[name][key] for key in ("type", "unit", "nullable")] == [
                column[key] for key in ("type", "unit", "nullable")
            ]
        new = now.keys() - promised.keys()
        assert all(now[name]["nullable"] for name in new)
        assert not new or old["version"] < table.version, "columns were added: the version must grow"


@EVERY_TABLE
def test_each_column_is_described_in_words(table: Table) -> None:
    for column in table.contract()["columns"]:
        assert len(column["description"].split()) >= 2, column["name"]
        assert column["unit"] is None or column["unit"].strip()


@EVERY_TABLE
def test_column_names_are_plain_and_distinct(table: Table) -> None:
    assert len(set(table.schema.names)) == len(table.schema.names)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in table.schema.names)


@EVERY_TABLE
def test_types_are_plain(table: Table) -> None:
    plain = r"string|binary|date32\[day\]|timestamp\[us, tz=UTC\]|int(16|32|64)|double"
    for field in table.schema:
        assert pa.types.is_map(field.type) or re.fullmatch(plain, str(field.type)), field


@EVERY_TABLE
def test_files_hold_all_columns_but_those_of_the_partition(table: Table) -> None:
    assert set(table.partition_by) <= set(table.schema.names)
    assert table.file_schema.names == [name for name in table.schema.names if name not in table.partition_by]


def test_results_are_partitioned_by_day_and_category() -> None:
    assert SCORES.partition_by == MAPS.partition_by == ("dt", "category")
    assert MANIFEST.partition_by == ()


def test_statuses_are_the_scored_ones_first_then_the_reasons_for_no_score() -> None:
    scored, unscored = (
        ("ok", "review", "anomalous"),
        ("unreadable", "unsupported", "too_large", "missing", "no_model", "failed"),
    )
    assert scored == SCORED_STATUSES
    assert scored + unscored == STATUSES


def test_rows_between_stages_keep_all_columns_of_the_table_they_become() -> None:
    assert FETCHED.names[: len(MANIFEST.schema)] == MANIFEST.schema.names
    assert SCORED.names[: len(SCORES.schema)] == SCORES.schema.names
    assert set(STAGED.names) == set(SCORES.schema.names) | set(MAPS.schema.names)
    assert all(STAGED.field(name).nullable for name in set(MAPS.schema.names) - set(SCORES.schema.names))


# --- conform ----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(order=st.permutations(["name", "n", "score"]), rows=st.lists(st.integers(-(2**15), 2**15 - 1), max_size=4))
def test_conform_puts_columns_in_the_order_and_types_of_the_schema(order: list[str], rows: list[int]) -> None:
    given_columns = {
        "name": pa.array([str(row) for row in rows], pa.large_string()),
        "n": pa.array(rows, pa.int64()),
        "score": pa.array([row / 2 for row in rows], pa.float32()),
    }
    table = conform(pa.table({name: given_columns[name] for name in order}), SMALL)
    assert table.schema.equals(SMALL, check_metadata=True)
    assert table.to_pylist() == [{"name": str(row), "n": row, "score": row / 2} for row in rows]


@EVERY_TABLE
def test_conform_keeps_a_table_that_already_has_the_schema(table: Table) -> None:
    empty = table.schema.empty_table()
    assert conform(empty, table.schema).equals(empty, check_metadata=True)


def test_conform_gives_the_metadata_of_the_schema() -> None:
    bare = pa.schema([pa.field(field.name, field.type, field.nullable) for field in MANIFEST.schema])
    assert conform(bare.empty_table(), MANIFEST.schema).schema.equals(MANIFEST.schema, check_metadata=True)


@EVERY_TABLE
def test_columns_of_nulls_get_their_declared_type(table: Table) -> None:
    nullable = pa.schema([field for field in table.schema if field.nullable])
    nulls = pa.table({name: pa.nulls(3) for name in nullable.names}) if nullable.names else nullable.empty_table()
    assert conform(nulls, nullable).schema == nullable
    assert conform(nulls, nullable).equals(pa.Table.from_pylist([{}] * nulls.num_rows, nullable))


@pytest.mark.parametrize("name", SMALL.names)
def test_conform_names_a_missing_column(name: str) -> None:
    table = SMALL.empty_table().drop_columns([name])
    with pytest.raises(TableError, match=rf"missing \['{name}'\], unknown \[\]"):
        conform(table, SMALL)


def test_conform_names_an_unknown_column() -> None:
    table = SMALL.empty_table().append_column("extra", pa.array([], pa.int8()))
    with pytest.raises(TableError, match=r"missing \[\], unknown \['extra'\]"):
        conform(table, SMALL)


def test_conform_names_all_wrong_columns_at_once() -> None:
    with pytest.raises(TableError, match=r"missing \['name', 'score'\], unknown \['nmae'\]"):
        conform(pa.table({"nmae": ["x"], "n": [1]}), SMALL)


def test_conform_refuses_a_column_that_is_there_twice() -> None:
    twice = pa.table([["x"], ["y"], [1], [0.5]], names=["name", "name", "n", "score"])
    with pytest.raises(TableError, match="name"):
        conform(twice, SMALL)


def test_conform_names_the_row_of_a_null_where_none_may_be() -> None:
    table = pa.table({"name": ["a", "b", None, None], "n": [1, 2, 3, 4], "score": [0.5] * 4})
    with pytest.raises(TableError, match="column 'name' is null in row 2, expected a value of type string"):
        conform(table, SMALL)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        pytest.param("n", [2**15], id="too large an integer"),
        pytest.param("n", [1.5], id="a fraction for an integer"),
        pytest.param("n", [float("nan")], id="nan for an integer"),
        pytest.param("n", ["one"], id="a word for an integer"),
        pytest.param("score", [2**53 + 1], id="an integer that a float rounds"),
        pytest.param("score", [{"a": 1}], id="a struct for a float"),
        pytest.param("name", [b"\xff"], id="bytes that are no text"),
        pytest.param("name", [["a"]], id="a list for text"),
    ],
)
def test_conform_refuses_what_does_not_cast_safely_and_names_the_column(name: str, values: list[object]) -> None:
    columns: dict[str, list[object]] = {"name": ["x"], "n": [1], "score": [0.5]}
    with pytest.raises(TableError, match=f"column {name!r} has type .*, expected {SMALL.field(name).type}"):
        conform(pa.table(columns | {name: values}), SMALL)


def test_conform_refuses_a_timestamp_that_would_lose_its_nanoseconds() -> None:
    schema = pa.schema([MANIFEST.schema.field("captured_at")])
    with pytest.raises(TableError, match="captured_at"):
        conform(pa.table({"captured_at": pa.array([1], pa.timestamp("ns", tz="UTC"))}), schema)


def test_conform_does_not_take_a_struct_for_attributes() -> None:
    schema = pa.schema([MANIFEST.schema.field("attributes")])
    rows = pa.table({"attributes": pa.array([[("line", "1")], []], schema.field(0).type)})
    assert conform(rows, schema).to_pylist() == [{"attributes": [("line", "1")]}, {"attributes": []}]
    with pytest.raises(TableError, match="attributes"):
        conform(pa.table({"attributes": [{"line": "1"}]}), schema)
