"""`calibrate`: new thresholds in the field, without a refit, and `redecide` follows."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from said import json_of, run

from differnet_ray import results
from differnet_ray.model.calibration import conformal_threshold
from differnet_ray.storage.locations import canonical
from differnet_ray.store.card import card
from differnet_ray.store.model_store import ModelStore

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("local_ray")]
DAY = "2026-01-31"


@pytest.fixture
def own_models(models: str, tmp_path: Path) -> str:
    """The model store, to be changed."""
    shutil.copytree(models, tmp_path / "models")
    return str(tmp_path / "models")


@pytest.fixture(scope="module")
def scored(factory: Path, models: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Published results over training and test images, and the id of their run."""
    output = tmp_path_factory.mktemp("results")
    said = run("score", "--input", factory, "--models", models, "--output", output, "--date", DAY, "--json")
    return output, json_of(said)["run_id"]


def rows_of(output: Path, category: str) -> list[dict[str, Any]]:
    return [
        row | dict(row["attributes"]) for row in results.scores(str(output), date=DAY, category=category).to_table().to_pylist()
    ]


def test_confirmed_images_of_a_run_give_new_thresholds_and_redecide_follows(
    scored: tuple[Path, str], own_models: str, tmp_path: Path
) -> None:
    output = tmp_path / "results"
    shutil.copytree(scored[0], output)
    rows = rows_of(output, "lid")
    confirmed = [row for row in rows if row["defect"] == "good"]  # twelve of them were fitted on
    (tmp_path / "confirmed.csv").write_text("\n".join(["image_id", *(row["image_id"] for row in confirmed)]))
    store = ModelStore(canonical(own_models))
    before = store.record("lid")
    where = ("--models", own_models, "--output", output, "--run-id", scored[1], "--confirmed", tmp_path / "confirmed.csv")
    (made,) = json_of(run("calibrate", *where, "--target-fpr", 0.25, "--review-fpr", 0.5, "--json"))

    scores = np.array([row["anomaly_score"] for row in confirmed if row["split"] == "test"])
    record = store.record("lid")
    assert (made["category"], made["n_images"], made["version"]) == ("lid", 4, store.latest("lid"))
    assert record["decision"]["threshold"] == conformal_threshold(scores, 0.25).value
    assert record["files"]["flow.safetensors"] == before["files"]["flow.safetensors"]
    assert record["lineage"]["calibrated"] == {
        "from": before["version"],
        "n_images": 4,
        "output": canonical(str(output)),
        "run_id": scored[1],
        "confirmed": True,
    }
    assert record["lineage"]["listing_digest"] == before["lineage"]["listing_digest"]
    assert f"the flow is that of {before['version']}" in card(record)
    np.testing.assert_array_equal(np.sort(store.calibration("lid")["anomaly_score"].to_numpy()), np.sort(scores))
    assert store.latest("plate") == before_plate(own_models)

    run("redecide", "--output", output, "--date", DAY, "--category", "lid", "--models", own_models)
    assert {row["threshold"] for row in rows_of(output, "lid")} == {record["decision"]["threshold"]}
    run_id = rows_of(output, "lid")[0]["run_id"]
    assert "0 wrong" in run("verify", "--output", output, "--run-id", run_id, "--models", own_models).stdout


def before_plate(models: str) -> str:
    return ModelStore(canonical(models)).versions("plate")[0]


def test_images_give_the_thresholds_that_their_stored_scores_give(
    scored: tuple[Path, str], factory: Path, own_models: str
) -> None:
    made = json_of(run("calibrate", "--models", own_models, "--data", factory, "--json"))
    assert [(row["category"], row["n_images"]) for row in made] == [("lid", 4), ("plate", 4)]
    for row in made:
        stored = [
            r["anomaly_score"] for r in rows_of(scored[0], row["category"]) if (r["split"], r["defect"]) == ("test", "good")
        ]
        assert row["threshold"] == pytest.approx(np.nextafter(max(stored), np.inf), rel=1e-6)
    assert "threshold before" in run("calibrate", "--models", own_models, "--data", factory, "--category", "lid").stdout


def test_a_fit_of_the_same_images_is_still_there_after_a_calibration(factory: Path, own_models: str) -> None:
    run("calibrate", "--models", own_models, "--data", factory)
    store = ModelStore(canonical(own_models))
    in_use = store.record("lid")
    found = store.find("lid", in_use["lineage"]["fingerprint"])
    assert found is not None
    assert found["version"] == in_use["version"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "expected --data, or --output with --run-id"),
        (("--data", "{factory}", "--output", "out", "--run-id", "r"), "expected --data, or --output"),
        (("--output", "{output}"), "with --run-id"),
        (("--output", "{output}", "--run-id", "none"), "no run 'none'"),
        (("--output", "{output}", "--run-id", "{run}", "--confirmed", "{empty}"), "names no scored image"),
        (("--data", "{factory}", "--target-fpr", "2"), "target_fpr"),
        (("--data", "{one}", "--category", "lid"), "1 good images with a score"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(
    options: tuple[str, ...], said: str, scored: tuple[Path, str], factory: Path, own_models: str, tmp_path: Path
) -> None:
    (tmp_path / "empty.csv").write_text("image_id\n0000\n")
    (tmp_path / "one").mkdir()
    shutil.copy(factory / "lid" / "test" / "good" / "00.jpg", tmp_path / "one")
    names = {
        "factory": factory, "output": scored[0], "run": scored[1], "empty": tmp_path / "empty.csv", "one": tmp_path / "one"
    }  # fmt: skip
    versions = ModelStore(canonical(own_models)).versions("lid")
    result = run("calibrate", "--models", own_models, *(option.format(**names) for option in options), exit_code=2)
    assert said in result.stderr
    assert ModelStore(canonical(own_models)).versions("lid") == versions
