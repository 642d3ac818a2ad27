"""A scoring run over a mixed archive in S3 that things happen to: it ends with the rows of one that nothing happens to."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deadly_images import ACTOR_FAULT, DECODER_FAULT
from fault_proxy import FaultProxy, faulty
from mixed_archive import PATTERN, make
from PIL import Image
from scored_without_ray import scores_without_ray

from differnet_ray.archives.manifest import list_images
from differnet_ray.errors import ConfigError
from differnet_ray.results.runs import read_table
from differnet_ray.storage.files import exists, list_files, read_bytes
from differnet_ray.storage.locations import canonical, join, name_of
from differnet_ray.tables import SCORED_STATUSES, SCORES

pytestmark = pytest.mark.filterwarnings("ignore")
DAY = date(2026, 2, 3)


@dataclass
class Plant:
    """An archive, the models that score it, and what must come out.

    Attributes:
        archive: canonical URI.
        models: of the model store.
        planted: PLACE/CATEGORY/NAME to the status of a broken image.
        scores: image id to the score that a plain loop over the stages gives; None where there is none.
    """

    archive: str
    models: str
    planted: dict[str, str]
    scores: dict[str, float | None]


def plant_of(archive: str, models: str, images: dict[str, list[bytes]], per_kind: int) -> Plant:
    """Makes an archive and scores it without Ray."""
    planted = make(archive, images, per_kind)
    with pytest.raises(ConfigError, match="2 images have no category"):
        list_images([archive], path_pattern=PATTERN)
    rows = list_images([join(archive, name) for name in _top_level(archive)], path_pattern=PATTERN).table
    return Plant(archive, models, planted, scores_without_ray(rows, models))


def _top_level(archive: str) -> list[str]:
    return sorted({file.uri.removeprefix(archive + "/").split("/")[0] for file in list_files(archive) if "line " in file.uri})


@pytest.fixture(scope="module")
def images(factory: Path) -> dict[str, list[bytes]]:
    """Category to images of it; there is no model of the last one."""
    found = {
        category: [path.read_bytes() for path in sorted((factory / category / "test").rglob("*.jpg"))]
        + [path.read_bytes() for path in sorted((factory / category / "test").rglob("*.png"))]
        for category in ("plate", "lid")
    }
    return found | {"unknown": found["lid"][:2]}


@pytest.fixture(scope="module")
def plant(bucket: str, models: str, images: dict[str, list[bytes]]) -> Plant:
    """A small mixed archive in S3."""
    return plant_of(join(bucket, "archive"), canonical(models), images, per_kind=48)


@dataclass
class Command:
    """`score` as a process of its own, with its own Ray."""

    arguments: list[str]
    environment: dict[str, str]
    output: str
    ray_folder: str

    def start(self) -> subprocess.Popen[str]:
        """Starts it."""
        return subprocess.Popen(
            [sys.executable, "-m", "differnet_ray.cli", "score", *self.arguments, "--json"],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def done_files(self) -> list[str]:
        """URIs of Ray Data's checkpoints: each names the rows of a finished file."""
        folder = join(self.output, "_staging")
        uris = [file.uri for file in list_files(folder)] if exists(folder) else []
        return [uri for uri in uris if "/done/" in uri and uri.endswith(".parquet") and "pending" not in name_of(uri)]

    def finished(self) -> set[str]:
        """The ids of the rows that are finished so far."""
        tables = [pq.read_table(pa.BufferReader(read_bytes(uri))) for uri in self.done_files()]
        return {name for table in tables for name in table["image_id"].to_pylist()}

    def wait_until(self, happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
        """Waits until something has happened while the process runs."""
        end = time.monotonic() + 200
        while not happened():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.1)

    def wait_until_gone(self) -> None:
        """Waits until all processes of its Ray are gone."""
        end = time.monotonic() + 60
        while subprocess.run(["pgrep", "-f", self.ray_folder], capture_output=True).stdout:
            assert time.monotonic() < end
            time.sleep(0.1)

    def actors(self, kind: str) -> list[int]:
        """Process ids of its actors of a kind."""
        ours = subprocess.run(["pgrep", "-f", f"raylet.*{self.ray_folder}"], capture_output=True, text=True).stdout.split()
        children = [subprocess.run(["pgrep", "-P", parent, "-f", kind], capture_output=True, text=True) for parent in ours]
        return [int(pid) for child in children for pid in child.stdout.split()]


@pytest.fixture
def command(plant: Plant, bucket: str, request: pytest.FixtureRequest, ray_folder: str, tmp_path: Path) -> Command:
    """Scores the plant with a decoder that dies of some images."""
    return command_of(plant, join(bucket, request.node.name[:60]), ray_folder, tmp_path)


def command_of(plant: Plant, output: str, ray_folder: str, folder: Path) -> Command:
    """Returns the command that scores a plant."""
    (folder / "sitecustomize.py").write_text(DECODER_FAULT + ACTOR_FAULT)
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": ray_folder, "PYTHONPATH": str(folder)}
    arguments = ["--input", plant.archive, "--models", plant.models, "--output", output, "--date", str(DAY)]
    return Command([*arguments, "--path-pattern", PATTERN], environment, output, ray_folder)


def place_of(row: dict[str, str]) -> str:
    """Returns where an image lies, in the form of `Plant.planted`."""
    place = row["uri"].split("/line ")[1].split("/")[0].split(".")[-1]
    return f"{place}/{row['category']}/{(row['member'] or row['uri']).split('/')[-1]}"


def check(plant: Plant, command: Command, exit_code: int, out: str) -> None:
    """Asserts that a run has ended with exactly the rows that it must have."""
    assert exit_code == 4, out
    record = json.loads(out)
    rows = read_table(command.output, SCORES).to_pylist()
    assert len(rows) == record["n_images"] == len(plant.scores)
    assert {row["image_id"] for row in rows} == set(plant.scores)
    found = {place_of(row): row for row in rows}
    assert len(found) == len(rows)
    assert {name: found[name]["status"] for name in plant.planted} == plant.planted
    assert all(found[name]["error"] for name in plant.planted)
    for name, row in found.items():
        if row["category"] == "unknown":
            assert row["status"] == "no_model"
        elif name not in plant.planted:
            assert row["status"] in SCORED_STATUSES, row
            assert row["anomaly_score"] == pytest.approx(plant.scores[row["image_id"]], rel=1e-5)
    assert record["counts"] == dict(Counter(row["status"] for row in rows))
    assert sum(record["counts"].values()) == record["n_images"]
    assert record["skipped"] == {"hidden": 1, "no category": 2, "not an image": 1}
    strays = read_bytes(join(command.output, "runs", f"{record['run_id']}.no-category.csv")).decode()
    assert sorted(line.split("/")[-1] for line in strays.splitlines()[1:]) == ['another stray.png",,', 'stray.jpg",,']
    assert not exists(join(command.output, "_staging")) or not list(list_files(join(command.output, "_staging")))


def loose(plant: Plant, proxy: FaultProxy) -> set[str]:
    """The loose images that have been read through the proxy, as URIs."""
    return {f"s3://{key}" for key in proxy.reads() if f"s3://{key}".startswith(f"{plant.archive}/line loose/")}


def test_faults_an_actor_that_is_killed_and_a_driver_that_is_killed_change_no_row(
    plant: Plant, command: Command, s3_endpoint: str
) -> None:
    ids = {}
    rows = list_images([join(plant.archive, "line loose")], path_pattern=PATTERN).table
    for uri, name in zip(rows["uri"].to_pylist(), rows["image_id"].to_pylist(), strict=True):
        ids[name] = uri
    with faulty(s3_endpoint, seed=1, slow_down=0.05, cut=0.05) as proxy:
        command.environment["AWS_ENDPOINT_URL"] = proxy.endpoint
        driver = command.start()
        command.wait_until(lambda: len(command.done_files()) > 0, driver)
        (actor, *_) = command.actors("ScoringActor")
        os.kill(actor, signal.SIGKILL)
        before = len(command.done_files())
        more = random.Random(0).randrange(3, 8)
        command.wait_until(lambda: len(command.done_files()) >= before + more, driver)
        driver.send_signal(signal.SIGKILL)
        assert "constructor arguments" not in driver.communicate()[1]
        command.wait_until_gone()
        done = command.finished()
        assert 0 < len(done) < len(plant.scores)
        assert loose(plant, proxy) >= {ids[name] for name in done & ids.keys()}
        proxy.requests.clear()
        driver = command.start()
        out, said = driver.communicate(timeout=300)
        check(plant, command, driver.returncode, out or said)
        assert "core_worker" not in said  # Ray has nothing to say against the actors, also those of a resumed run
        assert not loose(plant, proxy) & {ids[name] for name in done & ids.keys()}  # no finished image is fetched again
        faults = Counter(request.fault for request in proxy.requests)
        assert faults["slow_down"] > 5
        assert faults["cut"] > 0


@pytest.mark.slow
def test_credentials_that_stop_working_stop_the_job_and_lose_nothing(plant: Plant, command: Command, s3_endpoint: str) -> None:
    with faulty(s3_endpoint) as proxy:
        command.environment["AWS_ENDPOINT_URL"] = proxy.endpoint
        driver = command.start()
        command.wait_until(lambda: len(command.done_files()) > 1, driver)
        proxy.faults["denied"] = 1.0
        _, said = driver.communicate(timeout=200)
        assert driver.returncode == 1, said
        assert "run the same command again" in said.splitlines()[-1]
        command.wait_until_gone()
        assert not exists(join(command.output, "scores"))
        assert command.finished()
        proxy.faults["denied"] = 0.0
        driver = command.start()
        out, said = driver.communicate(timeout=300)
        check(plant, command, driver.returncode, out or said)


@pytest.mark.slow
def test_two_thousand_images_of_all_kinds(
    bucket: str, models: str, images: dict[str, list[bytes]], s3_endpoint: str, ray_folder: str, tmp_path: Path
) -> None:
    plant = plant_of(join(bucket, "large"), canonical(models), images, per_kind=170)
    command = command_of(plant, join(bucket, "large-results"), ray_folder, tmp_path)
    with faulty(s3_endpoint, seed=2, slow_down=0.05, cut=0.05) as proxy:
        command.environment["AWS_ENDPOINT_URL"] = proxy.endpoint
        driver = command.start()
        out, said = driver.communicate(timeout=500)
        check(plant, command, driver.returncode, out or said)
    assert len(plant.scores) > 2000


@pytest.mark.slow
def test_an_image_that_kills_whoever_scores_it_is_the_only_one_that_fails(
    models: str, images: dict[str, list[bytes]], ray_folder: str, tmp_path: Path
) -> None:
    folder = tmp_path / "archive"
    for n in range(30):
        path = folder / "line 1" / "lid" / f"{n:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(images["lid"][n % 8])
    Image.new("RGB", (80, 72), "white").save(folder / "line 1" / "lid" / "05 deadly.jpg")
    plant = Plant(canonical(str(folder)), canonical(models), {}, {})
    command = command_of(plant, canonical(str(tmp_path / "results")), ray_folder, tmp_path)
    driver = command.start()
    out, said = driver.communicate(timeout=300)
    assert driver.returncode == 4, said
    rows = read_table(command.output, SCORES).to_pylist()
    assert len(rows) == 31
    (dead,) = (row for row in rows if row["status"] not in SCORED_STATUSES)
    assert dead["uri"].endswith("05 deadly.jpg")
    assert (dead["status"], dead["error"]) == ("failed", "the process that scored it died 2 times")
    assert json.loads(out)["counts"]["failed"] == 1
