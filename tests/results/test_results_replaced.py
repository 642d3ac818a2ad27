"""Publishing again changes nothing, publishing over others replaces just what it names, and failing half way can be mended."""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta

import pyarrow.parquet as pq
import pytest
from staged_runs import DAY, SMALL, a_run, by_id, files, manifest_of, publish_staged, published_run, scored, stage

from differnet_ray.errors import StorageError
from differnet_ray.results import publish, staged_run
from differnet_ray.results.publish import publish_alone
from differnet_ray.results.runs import Run, published, read_table, run_of
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


def names_of(state: dict[str, tuple[int, bytes]], run: Run) -> set[str]:
    """Returns the files of a run in the tables."""
    return {name for name in state if not name.startswith("runs/") and run_of(name) == run.run_id}


def test_a_day_is_the_union_of_its_runs(output: str) -> None:
    """Two lines, two shifts, a late upload: none takes anything from another."""
    first, second = a_run(listing_digest="good"), a_run(listing_digest="scratch")
    published_run(output, first, manifest_of(["screw"], per_category=12))
    before = files(output)
    record = published_run(output, second, manifest_of(["screw"], per_category=6, bucket="late"))
    after = files(output)
    assert {name: after[name] for name in before} == before
    rows = read_table(output, SCORES, dt=DAY, category="screw")
    assert Counter(rows["run_id"].to_pylist()) == {first.run_id: 12, second.run_id: 6}
    assert record["replaced"] == {}


def test_of_an_image_the_newest_row_holds_and_only_files_with_common_images_change(output: str) -> None:
    other_day, other_images = a_run(dt=DAY - timedelta(days=1)), a_run(listing_digest="other")
    first, second = a_run(n_transforms="4"), a_run(n_transforms="8")
    published_run(output, other_day)
    published_run(output, first)
    published_run(output, other_images, manifest_of(["screw"], bucket="late"))
    before = files(output)
    screws = manifest_of(["screw"], per_category=4)
    record = published_run(output, second, screws, statuses=["ok", "anomalous"], scale=3.0)
    after = files(output)
    changed = {name for name in before if after.get(name) != before[name]}
    assert changed == {name for name in names_of(before, first) if "category=screw" in name}
    assert set(after) - set(before) == names_of(after, second) | {f"runs/{second.run_id}.json"}
    new = by_id(scored(screws, second, ["ok", "anomalous"], scale=3.0).select(SCORES.schema.names))
    old = by_id(scored(SMALL, first).select(SCORES.schema.names))
    late = by_id(scored(manifest_of(["screw"], bucket="late"), other_images).select(SCORES.schema.names))
    assert by_id(read_table(output, SCORES, dt=DAY)) == old | late | new
    assert read_table(output, SCORES, dt=DAY).num_rows == len(old | late)
    assert record["replaced"] == {first.run_id: 4}


def test_the_maps_follow_their_rows(output: str) -> None:
    first, second = a_run(n_transforms="4"), a_run(n_transforms="8")
    published_run(output, first, statuses=["anomalous"])
    published_run(output, second, manifest_of(["screw"], per_category=4), statuses=["ok", "anomalous"])
    maps = read_table(output, MAPS, dt=DAY, category="screw")
    rows = by_id(read_table(output, SCORES, dt=DAY, category="screw"))
    assert maps.num_rows == 7  # five of the first run, two of the second, of which two more have none any more
    assert all(rows[row["image_id"]]["run_id"] == row["run_id"] for row in maps.to_pylist())


def test_a_file_that_lost_rows_keeps_its_order_footer_and_statistics(output: str) -> None:
    first, second = a_run(n_transforms="4"), a_run(n_transforms="8")
    published_run(output, first, manifest_of(["screw"], per_category=30))
    order = read_table(output, SCORES)["image_id"].to_pylist()
    published_run(output, second, manifest_of(["screw"], per_category=10))
    (name,) = (name for name in names_of(files(output), first) if name.startswith("scores/"))
    file = pq.ParquetFile(output.removeprefix("file://") + "/" + name)
    left = file.read()["image_id"].to_pylist()
    assert left == [image for image in order if image in left]
    assert file.schema_arrow.metadata[b"differnet_ray.run_id"] == first.run_id.encode()
    assert file.metadata.row_group(0).column(0).statistics.has_min_max


def test_replacing_the_day_leaves_the_run_alone_in_it(output: str) -> None:
    other_day, first, second = a_run(dt=DAY - timedelta(days=1)), a_run(n_transforms="4"), a_run(n_transforms="8")
    published_run(output, other_day)
    published_run(output, first)
    record = published_run(output, second, manifest_of(["screw"], per_category=4), replace_day=True)
    assert set(read_table(output, SCORES, dt=DAY)["run_id"].to_pylist()) == {second.run_id}
    assert read_table(output, SCORES, dt=other_day.dt).num_rows == SMALL.num_rows
    assert record["replaced"] == {first.run_id: SMALL.num_rows}
    assert not names_of(files(output), first)


def test_a_published_run_can_be_left_alone_in_its_day(output: str) -> None:
    first, second = a_run(n_transforms="4"), a_run(listing_digest="other")
    published_run(output, first)
    record = published_run(output, second, manifest_of(["screw"], per_category=4, bucket="late"))
    record = publish_alone(output, second, record)
    assert set(read_table(output, SCORES, dt=DAY)["run_id"].to_pylist()) == {second.run_id}
    assert record["replaced"] == {first.run_id: SMALL.num_rows}
    assert json.loads(files(output)[f"runs/{second.run_id}.json"][1]) == record


def test_what_a_run_replaced_is_still_known_when_it_is_published_again(output: str) -> None:
    first, second = a_run(n_transforms="4"), a_run(n_transforms="8")
    published_run(output, first)
    for _ in range(2):
        record = published_run(output, second, manifest_of(["screw"], per_category=4))
        assert record["replaced"] == {first.run_id: 4}
    published_run(output, first)
    assert published_run(output, second, manifest_of(["screw"], per_category=4))["replaced"] == {first.run_id: 4}


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
