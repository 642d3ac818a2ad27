"""A publisher that is killed at any moment: readers never miss an image, and a repeat puts everything right."""

from __future__ import annotations

import random
import shutil
import time
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
from differnet_ray.results.publish import finish_publishing, publish
from differnet_ray.results.runs import published, read_table, staging, write_manifest
from differnet_ray.storage.files import write_bytes
from differnet_ray.tables import MAPS, SCORES

KILLS = 10
PLANT = manifest_of(CATEGORIES[:4], per_category=30)
OLD, NEW = a_run(n_transforms="4"), a_run(n_transforms="8")
OLD_ROWS, NEW_ROWS = (scored(PLANT, run, scale=scale) for run, scale in ((OLD, 1.0), (NEW, 2.0)))
EXPECTED = {"old": by_id(OLD_ROWS.select(SCORES.schema.names)), "new": by_id(NEW_ROWS.select(SCORES.schema.names))}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An old run that is published, two further partitions, and a new run that is staged."""
    folder = tmp_path_factory.mktemp("prepared") / "output"
    output = folder.as_uri()
    published_run(output, OLD, PLANT)
    published_run(output, a_run(dt=date(2026, 1, 30)), PLANT)
    published_run(output, a_run(listing_digest="other"), manifest_of(["0042"]))
    stage(output, NEW, NEW_ROWS)
    write_manifest(staging(output, NEW, "manifest"), PLANT)
    return folder


def test_a_publisher_that_is_killed_loses_nothing_and_a_repeat_ends_exact(prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared, tmp_path / "whole")
    process = begin((tmp_path / "whole").as_uri(), NEW)
    began = time.monotonic()
    process.join()
    seconds = time.monotonic() - began
    draw = random.Random(0)
    states = []
    for kill in range(KILLS):
        folder = tmp_path / f"{kill}"
        shutil.copytree(prepared, folder)
        output = folder.as_uri()
        others = untouched(output)
        process = begin(output, NEW)
        time.sleep(draw.uniform(0, seconds))
        process.kill()
        process.join()
        states.append(seen(output))
        if published(output, NEW) is None:
            publish(output, NEW, LIBRARIES)
        else:
            finish_publishing(output, NEW.run_id)
        assert by_id(today(output)) == EXPECTED["new"]
        assert today(output).num_rows == PLANT.num_rows
        wanted = NEW_ROWS.filter(pc.is_valid(NEW_ROWS["map_height"]))["image_id"].to_pylist()
        maps = read_table(output, MAPS, dt=NEW.dt).filter(pc.field("category") != "0042")["image_id"].to_pylist()
        assert sorted(maps) == sorted(wanted)
        assert untouched(output) == others
        assert not files(output, "_staging")
    assert len(set(states)) > 1, states  # it was killed at different moments


def today(output: str) -> pa.Table:
    """Returns what readers see of the partitions that are published anew."""
    rows = read_table(output, SCORES, dt=NEW.dt)
    return rows.filter(pc.field("category") != "0042")


def seen(output: str) -> str:
    """Asserts that each image has its old row, its new row or both; returns which of them there are."""
    rows = today(output).to_pylist()
    assert {row["image_id"] for row in rows} == EXPECTED["old"].keys()
    kinds = set()
    for row in rows:
        kind = "new" if row["run_id"] == NEW.run_id else "old"
        assert row == EXPECTED[kind][row["image_id"]]
        kinds.add(kind)
    return f"{sorted(kinds)} {len(rows)}"


def untouched(output: str) -> dict[str, tuple[int, bytes]]:
    """Returns the files of other days and categories, with their times and contents."""
    found = {name: file for name, file in files(output).items() if name.startswith(("scores/", "maps/"))}
    return {name: file for name, file in found.items() if f"dt={NEW.dt}" not in name or "category=0042" in name}


def test_a_run_that_was_published_later_is_not_removed_by_the_end_of_an_earlier_publication(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(prepared, tmp_path / "output")
    output = (tmp_path / "output").as_uri()
    with monkeypatch.context() as patch:  # as if killed when the run file was there
        patch.setattr(publishing, "finish_publishing", lambda *_: None)
        publish(output, NEW, LIBRARIES)
    stage(output, OLD, scored(PLANT, OLD, scale=3.0))
    write_manifest(staging(output, OLD, "manifest"), PLANT)
    publish(output, OLD, LIBRARIES)  # under the names of the files that were to be removed
    finish_publishing(output, NEW.run_id)
    assert by_id(today(output)) == by_id(scored(PLANT, OLD, scale=3.0).select(SCORES.schema.names))
    assert not files(output, "_staging")


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
    finish_publishing(output, NEW.run_id)
    assert by_id(today(output)) == EXPECTED["new"]
    assert today(output).num_rows == PLANT.num_rows


def test_a_publication_that_fails_takes_back_its_own_files_only(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(prepared, tmp_path / "output")
    output = (tmp_path / "output").as_uri()
    other = a_run(n_transforms="16")
    stage(output, other, scored(PLANT, other, scale=3.0))
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
    assert by_id(today(output)) == by_id(scored(PLANT, other, scale=3.0).select(SCORES.schema.names))


def test_publications_of_a_day_wait_for_each_other(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(prepared, tmp_path / "output")
    output = (tmp_path / "output").as_uri()
    monkeypatch.setattr(publishing, "PATIENCE", 0.1)
    monkeypatch.setattr(publishing, "SECONDS_BETWEEN_LOOKS", 0.05)
    with publishing.publishing(output, NEW.dt), pytest.raises(LeaseError, match="has worked on this run"):
        publish(output, NEW, LIBRARIES)
    with publishing.publishing(output, date(1999, 1, 1)):
        publish(output, NEW, LIBRARIES)
    assert by_id(today(output)) == EXPECTED["new"]
