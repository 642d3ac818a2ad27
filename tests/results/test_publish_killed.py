"""A publisher that is killed at any moment: readers never miss an image, and a repeat puts everything right."""

from __future__ import annotations

import random
import re
import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from killed_publisher import begin
from staged_runs import CATEGORIES, LIBRARIES, a_run, by_id, files, manifest_of, published_run, scored, stage

from differnet_ray.errors import LeaseError, StorageError
from differnet_ray.results import publish as publishing
from differnet_ray.results import staged_run
from differnet_ray.results.publish import publish
from differnet_ray.results.runs import published, read_table, staging, write_manifest
from differnet_ray.storage.files import list_files, write_bytes
from differnet_ray.table_contract import Table
from differnet_ray.tables import MAPS, SCORES

PLANT = manifest_of(CATEGORIES[:2], per_category=30)
AGAIN = pa.concat_tables([PLANT.slice(20, 50), manifest_of(CATEGORIES[:2], per_category=5, bucket="late")])
OLD, NEW = a_run(n_transforms="4"), a_run(n_transforms="8")
OLD_ROWS, NEW_ROWS = scored(PLANT, OLD), scored(AGAIN, NEW, scale=2.0)
OTHER_SHIFT = a_run(listing_digest="other shift")
UNTOUCHED = "0042"  # a category
LEASE = re.compile(r"\.lease\.json(\.\w+)?$")  # also one that was being written, hidden on a disk, at the kill


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An old run, one of other images of the same day and categories, one of another day; and a new run that is staged."""
    folder = tmp_path_factory.mktemp("prepared") / "output"
    output = folder.as_uri()
    published_run(output, OLD, PLANT)
    published_run(output, OTHER_SHIFT, manifest_of([*CATEGORIES[:2], UNTOUCHED], per_category=4, bucket="elsewhere"))
    published_run(output, a_run(dt=date(2026, 1, 30)), PLANT)
    stage(output, NEW, NEW_ROWS)
    write_manifest(staging(output, NEW, "manifest"), AGAIN)
    return folder


@pytest.fixture
def place(request: pytest.FixtureRequest, prepared: Path, tmp_path: Path) -> Callable[[str], str]:
    """Returns a function that copies what is prepared to a new place, on a disk or on a real S3 server."""

    def copied(name: str) -> str:
        if kind == "disk":
            shutil.copytree(prepared, tmp_path / name)
            return (tmp_path / name).as_uri()
        output = f"{bucket}/{name}"
        for path in prepared.rglob("*"):
            if path.is_file():
                write_bytes(f"{output}/{path.relative_to(prepared)}", path.read_bytes())
        return output

    kind = request.getfixturevalue("kind")
    bucket = request.getfixturevalue("bucket") if kind == "s3" else ""
    return copied


@pytest.mark.parametrize(("kind", "kills"), [("disk", 10), ("s3", 3), pytest.param("s3", 10, marks=pytest.mark.slow)])
def test_a_publisher_that_is_killed_loses_nothing_and_a_repeat_ends_exact(
    kind: str, kills: int, place: Callable[[str], str]
) -> None:
    process = begin(place("whole"), NEW)
    began = time.monotonic()
    process.join()
    seconds = time.monotonic() - began
    draw = random.Random(0)
    states = []
    for kill in range(kills):
        output = place(str(kill))
        others = untouched(output)
        process = begin(output, NEW)
        time.sleep(seconds * (kill + draw.random()) / kills)
        process.kill()
        process.join()
        states.append(seen(output))
        repeat(output)
        assert_exact(output)
        assert untouched(output) == others
    assert kills < 10 or len(set(states)) > 1, states  # so many find it at different moments, also on a busy machine


def repeat(output: str) -> None:
    """What the same command does once more."""
    if published(output, NEW) is None:
        publish(output, NEW, LIBRARIES)
    else:
        with publishing.publishing(output, NEW.dt):
            pass


def today(output: str, table: Table = SCORES) -> pa.Table:
    """Returns what readers see of the day, without the rows of the other shift."""
    return read_table(output, table, dt=NEW.dt).filter(pc.field("run_id") != OTHER_SHIFT.run_id)


def rows_without(rows: pa.Table, others: pa.Table) -> pa.Table:
    return rows.filter(pc.invert(pc.is_in(rows["image_id"], value_set=others["image_id"])))


def assert_exact(output: str) -> None:
    """Asserts that the day is the union of its runs, with the new rows of images that both have; and so are the maps."""
    union = pa.concat_tables([rows_without(OLD_ROWS, AGAIN), NEW_ROWS])
    assert today(output).num_rows == union.num_rows
    assert by_id(today(output)) == by_id(union.select(SCORES.schema.names))
    maps = union.filter(pc.is_valid(union["map_height"]))
    assert sorted(today(output, MAPS)["image_id"].to_pylist()) == sorted(maps["image_id"].to_pylist())
    assert {row["image_id"]: row["run_id"] for row in today(output, MAPS).to_pylist()} == {
        row["image_id"]: row["run_id"] for row in maps.to_pylist()
    }
    assert not [file for file in found(output, "_staging") if not LEASE.search(file)]


def seen(output: str) -> str:
    """Asserts that each image of the old run has its old row, its new row or both; returns which of them there are."""
    old, new = (by_id(rows.select(SCORES.schema.names)) for rows in (OLD_ROWS, NEW_ROWS))
    rows = today(output).to_pylist()
    assert {row["image_id"] for row in rows} >= old.keys()
    for row in rows:
        assert row == (new if row["run_id"] == NEW.run_id else old)[row["image_id"]]
    return f"{sorted({row['run_id'] for row in rows})} {len(rows)}"


def found(output: str, folder: str) -> dict[str, str]:
    """Returns the files below a folder of the output: URI to etag."""
    try:
        return {file.uri: file.etag for file in list_files(f"{output}/{folder}")}
    except FileNotFoundError:
        return {}


def untouched(output: str) -> dict[str, str]:
    """Returns the files that a publication of the new run leaves alone, with their etags."""
    files = found(output, "scores") | found(output, "maps")
    return {uri: etag for uri, etag in files.items() if f"dt={NEW.dt}" not in uri or OTHER_SHIFT.run_id in uri}


def test_a_run_that_was_published_later_is_not_removed_by_the_end_of_an_earlier_publication(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(prepared, tmp_path / "output")
    output = (tmp_path / "output").as_uri()
    with monkeypatch.context() as patch:  # as if killed when the run file was there
        patch.setattr(publishing, "_finish", lambda *_: None)
        publish(output, NEW, LIBRARIES)
    again = scored(PLANT, OLD, scale=3.0)
    stage(output, OLD, again)
    write_manifest(staging(output, OLD, "manifest"), PLANT)
    publish(output, OLD, LIBRARIES)  # under the names of the files that were to lose rows
    with publishing.publishing(output, NEW.dt):
        pass
    union = pa.concat_tables([rows_without(NEW_ROWS, PLANT), again])
    assert today(output).num_rows == union.num_rows
    assert by_id(today(output)) == by_id(union.select(SCORES.schema.names))
    assert not files(output, "_staging")


def test_a_publication_that_was_killed_before_its_run_file_is_not_seen_after_the_next(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(prepared, tmp_path / "output")
    output = (tmp_path / "output").as_uri()
    with monkeypatch.context() as patch:
        patch.setattr(publishing, "_replaced", _killed)
        patch.setattr(publishing, "delete", lambda _: None)
        with pytest.raises(KeyboardInterrupt):
            publish(output, NEW, LIBRARIES)
    assert NEW.run_id in today(output)["run_id"].to_pylist()
    published_run(output, a_run(listing_digest="third"), manifest_of([UNTOUCHED], bucket="third"))
    assert NEW.run_id not in today(output)["run_id"].to_pylist()
    publish(output, NEW, LIBRARIES)  # its staged rows are still there
    assert NEW.run_id in today(output)["run_id"].to_pylist()


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interruption_at_the_run_file_loses_nothing(
    error: type[BaseException], prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(prepared, tmp_path / "output")
    output = (tmp_path / "output").as_uri()

    def interrupted(uri: str, data: bytes) -> None:
        write_bytes(uri, data)
        if uri.endswith(f"{NEW.run_id}.json"):
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(publishing, "write_bytes", interrupted)
        with pytest.raises(error):
            publish(output, NEW, LIBRARIES)
    seen(output)
    assert published(output, NEW) is not None
    repeat(output)
    assert_exact(output)


def test_a_publication_that_fails_takes_back_its_own_files_only(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(prepared, tmp_path / "output")
    output = (tmp_path / "output").as_uri()
    other = a_run(n_transforms="16")
    others = scored(PLANT, other, scale=3.0)
    stage(output, other, others)
    write_manifest(staging(output, other, "manifest"), PLANT)

    def overtaken(uri: str, data: bytes) -> None:
        with monkeypatch.context() as patch:
            for module in (staged_run, publishing):
                patch.setattr(module, "write_bytes", write_bytes)
            patch.setattr(publishing, "publishing", lambda *_: nullcontext())  # as if the lease had been lost
            publish(output, other, LIBRARIES)
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        for module in (staged_run, publishing):
            patch.setattr(module, "write_bytes", overtaken)
        with pytest.raises(StorageError, match="the disk is full"):
            publish(output, NEW, LIBRARIES)
    assert by_id(today(output)) == by_id(others.select(SCORES.schema.names))


def test_publications_of_a_day_wait_for_each_other(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(prepared, tmp_path / "output")
    output = (tmp_path / "output").as_uri()
    monkeypatch.setattr(publishing, "PATIENCE", 0.1)
    monkeypatch.setattr(publishing, "SECONDS_BETWEEN_LOOKS", 0.05)
    with publishing.publishing(output, NEW.dt), pytest.raises(LeaseError, match="has worked on this run"):
        publish(output, NEW, LIBRARIES)
    with publishing.publishing(output, date(1999, 1, 1)):
        publish(output, NEW, LIBRARIES)
    assert_exact(output)
