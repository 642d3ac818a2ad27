"""Publishing again changes nothing, publishing over others replaces just what it names, and failing half way can be mended."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from staged_runs import DAY, SMALL, a_run, by_id, files, manifest_of, publish_staged, published_run, scored, stage

from differnet_ray.errors import StorageError
from differnet_ray.results import publish, staged_run
from differnet_ray.results.runs import published, read_table
from differnet_ray.storage import files as storage
from differnet_ray.tables import MAPS, SCORES


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
        publish_staged(output, run)
        contents.append({name: data for name, (_, data) in files(output).items() if not name.startswith("runs/")})
    assert [name for name in contents[0] if any(content.get(name) != contents[0][name] for content in contents)] == []


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
    assert {name.split("/")[0] for name in in_screw} == {"maps", "scores"}
    assert all(name.split("/")[-1].startswith(second.run_id) for name in in_screw)
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
        patch.setattr(staged_run, "ROWS_PER_FILE", {"scores": 2, "maps": 1})
        published_run(output, run)
    assert len(files(output, "scores")) == 10
    published_run(output, run)
    assert len(files(output, "scores")) == 2
    assert read_table(output, SCORES).num_rows == SMALL.num_rows


@pytest.mark.parametrize("fails_at", range(1, 7))
def test_a_publication_that_failed_half_way_is_completed_by_the_next(
    fails_at: int, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    published_run(output, a_run(n_transforms="4"))
    run = a_run(n_transforms="8")
    stage(output, run, scored(SMALL, run, scale=2.0))
    with monkeypatch.context() as patch:
        fail_at(fails_at, patch)
        with pytest.raises(StorageError, match="the disk is full"):
            publish_staged(output, run)
    assert published(output, run) is None
    publish_staged(output, run)
    assert by_id(read_table(output, SCORES)) == by_id(scored(SMALL, run, scale=2.0).select(SCORES.schema.names))
    assert read_table(output, MAPS).num_rows == 2


@pytest.mark.parametrize("fails_at", [2, 6])
def test_a_publication_that_failed_leaves_what_readers_see(fails_at: int, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    published_run(output, a_run(n_transforms="4"))
    seen = by_id(read_table(output, SCORES)), by_id(read_table(output, MAPS))
    run = a_run(n_transforms="8")
    stage(output, run, scored(SMALL, run, scale=2.0))
    fail_at(fails_at, monkeypatch)
    with pytest.raises(StorageError, match="the disk is full"):
        publish_staged(output, run)
    assert read_table(output, SCORES).num_rows == SMALL.num_rows
    assert (by_id(read_table(output, SCORES)), by_id(read_table(output, MAPS))) == seen


def fail_at(call: int, patch: pytest.MonkeyPatch) -> None:
    """Makes the n-th write of a publication fail."""
    write, calls = storage.write_bytes, []

    def failing(uri: str, data: bytes) -> None:
        calls.append(uri)
        if len(calls) == call:
            raise StorageError(f"cannot write {uri}: the disk is full")
        write(uri, data)

    for module in (staged_run, publish):
        patch.setattr(module, "write_bytes", failing)
