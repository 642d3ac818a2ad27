"""Workers, drivers and nodes that die in the middle of a fit: every category ends published, and nothing is fitted twice."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from fit_jobs import EPOCHS_BEFORE_A_KILL, fitted, in_epochs, job_of, nothing_is_left, undisturbed
from s3fs import S3FileSystem

from differnet_ray.config import Recipe, preset
from differnet_ray.distributed.fit import fit_categories
from differnet_ray.distributed.resources import FitPlan
from differnet_ray.pipeline.fit_state import MAX_DEATHS, CategoryState
from differnet_ray.storage.files import exists, list_files
from differnet_ray.store.model_store import ModelStore

pytestmark = pytest.mark.filterwarnings("ignore")
EPOCHS = 200  # a few seconds, so that a kill hits the middle


@pytest.fixture(scope="module")
def long_recipe(tiny_recipe: Recipe) -> Recipe:
    return tiny_recipe.override(epochs=EPOCHS)


@pytest.fixture(scope="module")
def three(factory: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The two categories of the factory, and one of them once more."""
    root = tmp_path_factory.mktemp("three") / "data"
    shutil.copytree(factory, root, ignore=shutil.ignore_patterns("test", "ground_truth"))
    shutil.copytree(root / "lid", root / "case")
    return str(root)


@pytest.fixture(scope="module")
def expected(three: str, long_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, float]]:
    return undisturbed(job_of(three, str(tmp_path_factory.mktemp("undisturbed")), long_recipe))


@pytest.mark.usefixtures("local_ray")
def test_a_worker_is_killed(three: str, long_recipe: Recipe, expected: dict[str, tuple[str, float]], tmp_path: Path) -> None:
    job = job_of(three, str(tmp_path), long_recipe)
    killed: dict[str, list[str]] = {}

    def kill_one(states: Mapping[str, CategoryState]) -> None:
        done = [category for category, state in states.items() if state.status == "fitted"]
        for category, state in states.items():
            if done and not killed and in_epochs(state):
                killed[category] = done
                os.kill(int(state.worker.split(":")[1]), signal.SIGKILL)

    states = fit_categories(job, job.listing.categories, FitPlan(2, 1, 0), kill_one)
    assert {state.status for state in states.values()} == {"fitted"}
    ((category, done),) = killed.items()
    resumed = {name: state.result.resumed for name, state in states.items() if state.result}
    assert len(resumed[category]) == 1
    assert EPOCHS_BEFORE_A_KILL - 1 <= resumed[category][0] < EPOCHS
    assert all(resumed[name] == () for name in done)
    assert fitted(job.models) == expected
    assert nothing_is_left(tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_category_that_kills_its_process_is_given_up_and_the_others_are_published(
    three: str, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    # no checkpoints: each try begins anew and would last long enough to be seen
    job = replace(job_of(three, str(tmp_path), tiny_recipe.override(epochs=400)), checkpoint_seconds=1e9)
    killed: list[str] = []
    metrics: set[str] = set()
    node = ray.nodes()[0]
    port = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"

    def kill(states: Mapping[str, CategoryState]) -> None:
        with urllib.request.urlopen(port, timeout=10) as answer:
            found = re.findall(r'^ray_(differnet_fit_\w+){.*?(?:category|status)="(\w+)"', answer.read().decode(), re.MULTILINE)
        metrics.update(f"{name} {tag}" for name, tag in found)
        state = states["case"]
        if state.status == "running" and state.worker not in killed:
            killed.append(state.worker)
            os.kill(int(state.worker.split(":")[1]), signal.SIGKILL)

    states = fit_categories(job, job.listing.categories, FitPlan(2, 1, 0), kill)
    assert MAX_DEATHS <= len(killed) <= MAX_DEATHS + 12  # a try that stored features of a further image is forgiven
    assert {category: state.status for category, state in states.items()} == {
        "case": "failed",
        "lid": "fitted",
        "plate": "fitted",
    }
    assert f"its process died {MAX_DEATHS} times" in str(states["case"].error)
    assert ModelStore(job.models).categories() == ["lid", "plate"]
    assert metrics >= {"differnet_fit_epoch plate", "differnet_fit_loss plate", "differnet_fit_categories_total fitted"}


@pytest.mark.slow
def test_a_node_is_lost(
    three: str, long_recipe: Recipe, expected: dict[str, tuple[str, float]], tmp_path: Path, ray_folder: str
) -> None:
    script = Path(__file__).with_name("lose_a_node.py")
    run = subprocess.run(
        [sys.executable, script, three, tmp_path, json.dumps(long_recipe.to_dict()), ray_folder],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10"},
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["alive"] == 2  # the head and one of two nodes
    assert found["statuses"] == dict.fromkeys(expected, "fitted")
    assert len(found["lost"]) == 2
    resumed = {category: epochs for category, epochs in found["resumed"].items() if epochs}
    assert all(len(epochs) == 1 for epochs in resumed.values())
    went_on = [category for category in found["lost"] if category in resumed]
    assert went_on  # the other may have come to its end before the node went
    # A checkpoint follows its epoch, so the one seen last may not have been kept
    assert all(found["lost"][category] - 1 <= resumed[category][0] <= EPOCHS for category in went_on)
    assert fitted(f"file://{tmp_path}/models") == expected
    assert nothing_is_left(tmp_path)


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.1)


def test_the_driver_is_killed_and_the_same_command_goes_on_from_s3_to_s3(
    factory: Path, bucket: str, tmp_path: Path, ray_folder: str
) -> None:
    data, models = f"{bucket}/data", f"{bucket}/models"
    S3FileSystem().put(str(factory), data.removeprefix("s3://"), recursive=True)
    sizes = {"image_size": 64, "scales": 1, "transforms": 4, "blocks": 2, "hidden": 16, "epochs": 10, "fresh_epochs": 1}
    values = {"preset": "paper", **sizes, "clamp_alpha": 0.3}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]
    command = [
        *(sys.executable, "-m", "differnet_ray.cli", "fit", "--data", data, "--models", models, *options, "--no-test"),
        *("--backbone-weights", "random", "--max-parallel=1", "--checkpoint-seconds=0", "--scratch", tmp_path / "scratch"),
    ]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": ray_folder}

    def processes() -> list[str]:
        return subprocess.run(["pgrep", "-f", ray_folder], capture_output=True, text=True).stdout.split()

    def etags(folder: str) -> dict[str, str]:
        return {file.uri: file.etag for file in list_files(folder)} if exists(folder) else {}

    def checkpointed(category: str) -> bool:
        return any(f"/{category}-" in name and "/checkpoint." in name for name in etags(f"{models}/_fit"))

    driver = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: exists(f"{models}/lid/latest.json") and checkpointed("plate"))
    driver.kill()
    driver.wait()
    wait_for(lambda: not processes())
    assert not exists(f"{models}/plate")
    written = etags(f"{models}/lid")

    again = subprocess.run([*command, "--json"], env=environment, capture_output=True, text=True, timeout=200)
    assert again.returncode == 0, again.stderr
    found = json.loads(again.stdout)
    assert {category: state["status"] for category, state in found.items()} == {"lid": "unchanged", "plate": "fitted"}
    assert "fitted already, from the same images by the same recipe: lid" in again.stderr
    (epoch,) = found["plate"]["result"]["resumed"]
    assert 1 <= epoch < 6 * 10  # five folds and the flow in use
    assert f"plate: an interrupted fit went on after epoch {epoch}" in again.stderr
    assert etags(f"{models}/lid") == written
    assert not etags(f"{models}/_fit")
    recipe = preset("paper").override(
        **{"n_scales": 1, "n_transforms": 4, "n_blocks": 2, "clamp_alpha": 0.3},
        **{name: sizes[name] for name in ("image_size", "hidden", "epochs", "fresh_epochs")},
    )
    assert fitted(models) == undisturbed(job_of(str(factory), str(tmp_path / "alone"), recipe))

    sessions = list(Path(ray_folder).rglob("session_*"))
    third = subprocess.run([*command, "--json"], env=environment, capture_output=True, text=True, timeout=200)
    assert {state["status"] for state in json.loads(third.stdout).values()} == {"unchanged"}
    assert list(Path(ray_folder).rglob("session_*")) == sessions  # no Ray was started
