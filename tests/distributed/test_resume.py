"""The contract with Ray Data's checkpointing, and a scoring run that is interrupted; `test_score_mixed.py` kills one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.data

from differnet_ray.archives.manifest import list_images
from differnet_ray.distributed.resume import resumable
from differnet_ray.errors import DifferNetError
from differnet_ray.results.runs import read_table
from differnet_ray.storage.locations import canonical
from differnet_ray.tables import SCORES

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("local_ray")]


N = 128  # images of a scoring run, so that a kill hits its middle


class Work:
    """Notes each row that it works on, and fails at one."""

    def __init__(self, folder: str, poison: int | None) -> None:
        self.folder, self.poison = Path(folder), poison

    def __call__(self, rows: pa.Table) -> pa.Table:
        for name in rows["image_id"].to_pylist():
            if name == f"i{self.poison}":
                time.sleep(1)  # the rows before it are written
                raise RuntimeError("poison")
            (self.folder / name).write_text("worked on")
        return rows


def plan(tmp_path: Path, poison: int | None) -> ray.data.Dataset:
    if not (tmp_path / "manifest.parquet").exists():
        pq.write_table(pa.table({"image_id": [f"i{n}" for n in range(40)]}), tmp_path / "manifest.parquet")
    (tmp_path / "seen").mkdir(exist_ok=True)
    rows = ray.data.read_parquet(str(tmp_path / "manifest.parquet")).repartition(target_num_rows_per_block=4)
    return rows.map_batches(
        Work,
        fn_constructor_args=(str(tmp_path / "seen"), poison),
        batch_size=4,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=0,  # two CPUs: one for the actor that drops finished rows, one for reads and writes
    )


def test_finished_rows_are_neither_lost_nor_worked_on_again(tmp_path: Path) -> None:
    done = canonical(str(tmp_path / "done"))
    with pytest.raises(ray.exceptions.RayTaskError), resumable(done):
        plan(tmp_path, poison=30).write_parquet(str(tmp_path / "rows"))
    first = pq.read_table(tmp_path / "rows")["image_id"].to_pylist()
    assert 0 < len(first) < 40
    shutil.rmtree(tmp_path / "seen")
    note = next(path for path in (tmp_path / "done").iterdir() if ".pending" not in path.name)
    shutil.copy(note, note.with_name(f"{note.stem}.pending.parquet"))  # what a kill in the middle of a move leaves in S3
    for _ in range(2):  # the second finds nothing to do
        with resumable(done):
            plan(tmp_path, poison=None).write_parquet(str(tmp_path / "rows"))
        rows = pq.read_table(tmp_path / "rows")["image_id"].to_pylist()
        assert sorted(rows) == sorted(f"i{n}" for n in range(40))
        assert {path.name for path in (tmp_path / "seen").iterdir()} == set(rows) - set(first)


def test_a_plan_that_could_not_be_resumed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DifferNetError, match="could not be resumed"), resumable(canonical(str(tmp_path / "done"))):
        plan(tmp_path, poison=None).materialize()  # Read, but no Write
    plan(tmp_path, poison=None).materialize()  # outside of the block nothing is kept
    outside = plan(tmp_path, poison=None)
    with pytest.raises(DifferNetError, match="could not be resumed"), resumable(canonical(str(tmp_path / "done"))):
        outside.write_parquet(str(tmp_path / "rows"))


def test_a_scoring_run_is_interrupted_and_no_finished_image_is_fetched_again(
    factory: Path, models: str, tmp_path: Path, ray_folder: str
) -> None:
    archive, output = tmp_path / "archive", tmp_path / "results"
    good = factory / "lid" / "train" / "good"
    for i in range(N):
        target = archive / "lid" / "test" / "good" / f"{i:03d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(good / f"{i % 12:02d}.jpg", target)
    ids = dict(zip(*(list_images([str(archive)]).table[name].to_pylist() for name in ("image_id", "uri")), strict=True))
    command = [sys.executable, "-m", "differnet_ray.cli", "score", "--input", archive, "--models", models, "--output", output]
    command += ["--date", "2026-02-03", "--maps", "all"]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": ray_folder}
    staging = output / "_staging"

    def finished() -> set[str]:
        files = [path for path in staging.glob("*/done/*.parquet") if "pending" not in path.name]
        return {name for path in files for name in pq.read_table(path)["image_id"].to_pylist()}

    def stopped(how: signal.Signals, least: int) -> tuple[int, str]:
        """Starts the command, stops it when so many rows are finished; its exit code and what it said."""
        driver = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + 120
        while len(finished()) < least:
            assert time.monotonic() < end
            assert driver.poll() is None
            time.sleep(0.05)
        driver.send_signal(how)
        _, said = driver.communicate()
        while subprocess.run(["pgrep", "-f", ray_folder], capture_output=True).stdout:
            assert time.monotonic() < end
            time.sleep(0.1)
        return driver.returncode, said

    exit_code, said = stopped(signal.SIGTERM, 16)
    assert (exit_code, "Interrupted: the same command goes on" in said) == (130, True), said
    first = finished()
    assert 0 < len(first) < N
    assert not (output / "scores").exists()
    for name in first:  # who fetched them again would find no image: as long, as old, so of the same listing
        path = Path(ids[name].removeprefix("file://"))
        stat = path.stat()
        path.write_bytes(bytes(stat.st_size))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    again = subprocess.run([*command, "--json"], env=environment, capture_output=True, text=True, timeout=200)
    assert again.returncode == 0, again.stderr
    record = json.loads(again.stdout)
    assert record["n_images"] == record["n_maps"] == N
    assert "unreadable" not in record["counts"]
    rows = read_table(canonical(str(output)), SCORES)
    assert sorted(rows["image_id"].to_pylist()) == sorted(ids)
    scores: dict[int, set[float]] = {}
    for uri, score in zip(rows["uri"].to_pylist(), rows["anomaly_score"].to_pylist(), strict=True):
        scores.setdefault(int(Path(uri).stem) % 12, set()).add(score)
    assert [len(values) for values in scores.values()] == [1] * 12  # the same image has the same score, before and after
    assert [path.name for path in staging.iterdir()] == []
