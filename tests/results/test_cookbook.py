"""docs/tables.md: it names every column, its queries run and find what was planted, its Python runs too."""

from __future__ import annotations

import re
from datetime import date, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from staged_runs import DAY, MAP_SHAPE, Run, a_run, manifest_of, publish_staged, published_run, scored, stage

from differnet_ray.storage.locations import canonical
from differnet_ray.table_contract import Table
from differnet_ray.tables import MAPS, RUNS, SCORES

PAGE = (Path(__file__).parents[2] / "docs" / "tables.md").read_text(encoding="utf-8")
QUERIES = dict(re.findall(r"```sql\n-- (.*?)\n(.*?)```", PAGE, re.DOTALL))
DAYS = [DAY - timedelta(days=1), DAY]
CATEGORIES = ("0042", "screw")


@pytest.mark.parametrize("table", [SCORES, MAPS, RUNS], ids=lambda table: table.name)
def test_every_column_is_on_the_page_as_the_contract_has_it(table: Table) -> None:
    (section,) = re.findall(rf"^## {table.name} \(version {table.version}\)$(.*?)^## ", PAGE, re.DOTALL | re.MULTILINE)
    expected = []
    for column in table.contract()["columns"]:
        null, unit = "yes" if column["nullable"] else "", column["unit"] or ""
        expected.append(f"| `{column['name']}` | {column['type']} | {null} | {unit} | {column['description']} |")
    assert [line for line in section.splitlines() if line.count("|") == 6 and line.startswith("| `")] == expected


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two days; on the second a newer model gave scores half as large, and calls nothing of 0042 anomalous.

    Lines and cameras differ in what happens on them.
    """
    folder = tmp_path_factory.mktemp("results")
    manifest = manifest_of(CATEGORIES)
    for n, day in enumerate(DAYS):
        run = a_run(dt=day)
        rows = scored(manifest, run, statuses=["ok", "anomalous", "unreadable"], scale=0.25 / (n + 1))
        publish(canonical(str(folder)), run, rows, version=f"2026010{n + 1}T000000Z-aaaaaaaa")
    return folder


def publish(output: str, run: Run, rows: pa.Table, version: str) -> None:
    """Publishes rows of one model: line 1 makes the defects, camera b the unreadable images."""
    changed = rows.to_pylist()
    for row in changed:
        line, camera = str(int(row["status"] == "anomalous")), "b" if row["status"] == "unreadable" else "a"
        row["attributes"] = [("line", line), ("camera", camera)]
        row["model_version"] = version if row["model_version"] else None
        if row["status"] == "anomalous" and version.startswith("20260102") and row["category"] == "0042":
            row["status"] = "review"
    stage(output, run, pa.Table.from_pylist(changed, schema=rows.schema))
    publish_staged(output, run, manifest_of(CATEGORIES))


@pytest.fixture
def database(results: Path) -> duckdb.DuckDBPyConnection:
    database = duckdb.connect()
    database.execute(QUERIES["the tables"].replace("OUT", str(results)))
    return database


@pytest.mark.parametrize("name", [name for name in QUERIES if name != "the tables"])
def test_a_query_of_the_cookbook_runs(name: str, results: Path, database: duckdb.DuckDBPyConnection) -> None:
    found = database.sql(QUERIES[name])
    rows = [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]
    assert rows
    check = CHECKS.get(name.split(":")[0].split(",")[0])
    assert check is not None, "say below what it must find"
    check(rows)


def _by_day(rows: list[dict[str, object]]) -> None:
    first, last = DAYS
    assert [(row["dt"], row["category"], row["images"], row["anomalous"]) for row in rows] == [
        (first, "0042", 9, 3),
        (first, "screw", 9, 3),
        (last, "0042", 9, 0),
        (last, "screw", 9, 3),
    ]
    assert isinstance(rows[0]["dt"], date)


def _by_line(rows: list[dict[str, object]]) -> None:
    found = [(row["line"], row["dt"], row["defect_rate"], row["images"]) for row in rows[:2]]
    assert found == [("1", DAYS[0], 1.0, 6), ("1", DAYS[1], 0.5, 6)]
    assert {row["defect_rate"] for row in rows[2:]} == {0.0}


def _worst(rows: list[dict[str, float]]) -> None:
    assert [row["category"] for row in rows] == ["screw"] * 3
    assert sorted((row["severity"] for row in rows), reverse=True) == [row["severity"] for row in rows]


def _drift(rows: list[dict[str, object]]) -> None:
    assert [row["drift"] for row in rows if row["dt"] == DAYS[0]] == [None, None]
    assert [row["drift"] for row in rows if row["dt"] == DAYS[1]] == [pytest.approx(-0.5)] * 2


def _cameras(rows: list[dict[str, object]]) -> None:
    assert [(row["camera"], row["rate"]) for row in rows] == [("b", 1.0), ("a", 0.0)]


def _versions(rows: list[dict[str, object]]) -> None:
    assert {(row["category"], row["was"], row["is_now"], row["images"]) for row in rows} == {("0042", "anomalous", "review", 3)}


def _near(rows: list[dict[str, float]]) -> None:
    distances = [abs(row["anomaly_score"] / row["threshold"] - 1) for row in rows]
    assert distances == sorted(distances)
    assert max(distances) <= 0.2


def _with_maps(rows: list[dict[str, object]]) -> None:
    assert len(rows) == 9
    assert {len(row["gradient_map"]) for row in rows} == {2 * int(np.prod(MAP_SHAPE))}  # type: ignore[arg-type]


def _runs(rows: list[dict[str, object]]) -> None:
    assert [row["dt"] for row in rows] == DAYS
    assert {row["n_images"] for row in rows} == {18}


def _reconciled(rows: list[dict[str, int]]) -> None:
    assert [(row["published"], row["replaced"], row["present"]) for row in rows] == [(18, 0, 18)] * 2


CHECKS = {
    "anomalous images by day and category": _by_day,
    "defect rate of each line and day": _by_line,
    "the worst images of a day": _worst,
    "drift": _drift,
    "share of images of each camera that could not be read": _cameras,
    "two model versions on the same images": _versions,
    "near the threshold": _near,
    "anomalous images with their maps": _with_maps,
    "the runs": _runs,
    "each run": _reconciled,
}


def test_the_python_of_the_page_runs(results: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, object] = {}
    exec(code.replace("OUT", str(results)).replace(str(DAYS[1]), str(DAYS[0])), names)
    assert names["gradient_map"].shape == MAP_SHAPE  # type: ignore[attr-defined]
    assert names["days"].num_rows == 2  # type: ignore[attr-defined]


def test_the_runs_of_a_day_reconcile_with_its_rows(tmp_path: Path) -> None:
    output = canonical(str(tmp_path))
    first, second, third = (a_run(n_transforms=str(n)) for n in (1, 2, 3))
    published_run(output, first, manifest_of(["screw"], per_category=12))
    published_run(output, second, manifest_of(["screw"], per_category=5))
    published_run(output, third, manifest_of(["screw"], per_category=9))
    published_run(output, second, manifest_of(["screw"], per_category=5))
    database = duckdb.connect()
    database.execute(QUERIES["the tables"].replace("OUT", str(tmp_path)))
    (query,) = (QUERIES[name] for name in QUERIES if name.startswith("each run:"))
    found = {row[0]: row[1:] for row in database.sql(query).fetchall()}
    assert found == {first.run_id: (12, 9, 3), third.run_id: (9, 5, 4), second.run_id: (5, 0, 5)}
