"""`redecide`, `verify` and `report` over a run that has been scored and published."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image
from said import json_of, run

from differnet_ray import results
from differnet_ray.errors import StorageError
from differnet_ray.pipeline import redecide
from differnet_ray.results import publish as publishing
from differnet_ray.storage.locations import canonical
from differnet_ray.store.model_store import ModelStore

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("local_ray")]
DAY = "2026-01-31"


@pytest.fixture(scope="module")
def archive(factory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two categories, loose and in a tar, one that cannot be read, and one of a category without a model."""
    root = tmp_path_factory.mktemp("archive") / "data"
    shutil.copytree(factory, root, ignore=shutil.ignore_patterns("train", "ground_truth"))
    shutil.make_archive(str(root / "packed"), "tar", root, "plate/test/dent")
    (root / "lid" / "test" / "good" / "empty.png").write_bytes(b"")
    shutil.copytree(root / "lid" / "test" / "good", root / "hinge" / "test" / "good")
    return root


@pytest.fixture(scope="module")
def scored(archive: Path, models: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Published results, and the id of their run."""
    output = tmp_path_factory.mktemp("results")
    said = run(
        "score", "--input", archive, "--models", models, "--output", output, "--date", DAY, "--overlays", "--json", exit_code=4
    )
    return output, json_of(said)["run_id"]


@pytest.fixture
def output(scored: tuple[Path, str], tmp_path: Path) -> Path:
    """The results, to be changed."""
    shutil.copytree(scored[0], tmp_path / "results")
    return tmp_path / "results"


def rows_of(output: Path, **where: str) -> dict[str, dict[str, object]]:
    return {row["image_id"]: row for row in results.scores(str(output), **where).to_table().to_pylist()}


def state(output: Path) -> dict[str, tuple[int, bytes]]:
    """Every published file: path to (modification time, content)."""
    files = [path for name in ("scores", "maps", "runs") for path in (output / name).rglob("*") if path.is_file()]
    return {str(path.relative_to(output)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_another_threshold_is_a_new_run_over_the_same_scores(output: Path, scored: tuple[Path, str]) -> None:
    before, maps, untouched = rows_of(output), results.maps(str(output)).to_table(), state(output)
    lid = sorted(row["anomaly_score"] for row in before.values() if row["category"] == "lid" and row["anomaly_score"])
    threshold = (lid[4] + lid[5]) / 2
    where = ("--output", output, "--date", DAY, "--category", "lid")
    record = json_of(run("redecide", *where, "--threshold", threshold, "--json"))
    assert record["run_id"] != scored[1]
    source = json.loads(record["options"]["redecided"])["lid"]
    assert list(source["from"]) == [scored[1]]
    assert [decided["threshold"] for decided in source["decided"]] == [threshold]
    assert record["counts"]["anomalous"] == len([score for score in lid if score >= threshold])
    after = rows_of(output)
    assert after.keys() == before.keys()
    for name, row in after.items():
        if row["category"] != "lid":
            assert row == before[name]
            continue
        assert (row["run_id"], row["scored_by"]) == (record["run_id"], scored[1])
        changed = {"status", "threshold", "review_threshold", "run_id"}
        assert {k: v for k, v in row.items() if k not in changed} == {k: v for k, v in before[name].items() if k not in changed}
        if row["anomaly_score"] is None:
            assert (row["status"], row["threshold"]) == (before[name]["status"], None)
        else:
            assert row["threshold"] == threshold
            assert (row["status"] == "anomalous") == (row["anomaly_score"] >= threshold)
    assert record["counts"] == dict(Counter(row["status"] for row in after.values() if row["category"] == "lid"))
    now = results.maps(str(output)).to_table()
    by_id = [("image_id", "ascending")]
    assert now.drop_columns(["run_id"]).sort_by(by_id) == maps.drop_columns(["run_id"]).sort_by(by_id)
    others = {name: file for name, file in state(output).items() if "category=lid" not in name and record["run_id"] not in name}
    assert others == {name: file for name, file in untouched.items() if "category=lid" not in name}
    assert "nothing to do" in run("redecide", *where, "--threshold", threshold).stderr
    assert not [path for path in (output / "_staging").rglob("*") if path.is_file()]


def test_each_map_has_the_picture_that_was_asked_for(scored: tuple[Path, str]) -> None:
    maps = results.maps(str(scored[0])).to_table().to_pylist()
    assert maps
    for row in maps:
        picture = Image.open(io.BytesIO(row["overlay_png"]))
        assert (picture.format, picture.size) == ("PNG", (64, 64))
        shown = results.gradient_map(str(scored[0]), row["image_id"], date=DAY, category=row["category"])
        assert shown.shape == (row["map_height"], row["map_width"])


def test_a_target_rate_gives_the_threshold_of_the_calibration_set(output: Path, models: str) -> None:
    where = ("--output", output, "--date", DAY, "--models", models)
    run("redecide", *where, "--target-fpr", 0.5)
    store = ModelStore(canonical(models))
    for category in ("lid", "plate"):
        scores = store.calibration(category)["anomaly_score"].to_numpy()
        threshold = {row["threshold"] for row in rows_of(output, category=category).values() if row["threshold"]}
        assert len(threshold) == 1
        assert (scores >= threshold.pop()).mean() <= 0.5
    as_fitted = store.record("lid")["recipe"]["calibration"]["target_fpr"]
    run("redecide", *where, "--target-fpr", as_fitted, "--category", "lid")
    decision = store.load("lid").decision
    found = {
        (row["threshold"], row["review_threshold"]) for row in rows_of(output, category="lid").values() if row["threshold"]
    }
    assert found == {(decision.threshold, decision.review_threshold)}


def test_a_redecision_that_was_killed_is_put_right_by_the_same_command(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = ("redecide", "--output", output, "--date", DAY, "--threshold", 3.0)
    before = rows_of(output)
    with monkeypatch.context() as patch:  # as if killed before the run file, nothing tidied up
        patch.setattr(publishing, "run_uri", lambda *_: _killed())
        patch.setattr(publishing, "delete", lambda _: None)
        run(*where, exit_code=1)
    assert rows_of(output).keys() == before.keys()
    run(*where)
    table = results.scores(str(output)).to_table()
    assert table.num_rows == len(before)
    assert set(table.filter(pc.field("threshold").is_valid())["threshold"].to_pylist()) == {3.0}


def _killed() -> str:
    raise StorageError("killed")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "one of --threshold and --target-fpr"),
        (("--threshold", 1, "--date", "1999-01-01"), "nothing is published for 1999-01-01"),
        (("--threshold", 1, "--target-fpr", 0.1), "one of --threshold and --target-fpr"),
        (("--target-fpr", 0.1), "with --models"),
        (("--threshold", -1), "over 0"),
        (("--threshold", 1, "--review-threshold", 2), "0 < review <= threshold"),
        (("--threshold", 1, "--category", "screw"), "screw: nothing is published for 2026-01-31"),
    ],
)
def test_a_redecision_that_cannot_be_is_refused(options: tuple[object, ...], said: str, output: Path) -> None:
    untouched = state(output)
    assert said in run("redecide", "--output", output, "--date", DAY, *options, exit_code=2).stderr
    assert state(output) == untouched


def test_rows_computed_again_are_the_published_ones(scored: tuple[Path, str], models: str) -> None:
    summary = json_of(run("verify", "--output", scored[0], "--run-id", scored[1], "--models", models, "--json"))
    assert summary["rows"] == len(rows_of(scored[0]))
    assert (summary["wrong"], summary["gone"], summary["not_right"]) == (0, 0, [])
    assert summary["largest_difference"] <= 1e-5


@pytest.mark.parametrize(
    ("column", "change", "said"),
    [
        ("anomaly_score", lambda score: score * 1.001, "computed again"),
        ("status", lambda _: "ok", "by score and thresholds anomalous"),
        ("threshold", lambda threshold: threshold * 0.99, "threshold"),
        ("model_digest", lambda _: "0" * 64, "model_digest"),
    ],
)
def test_a_row_that_was_tampered_with_is_found(
    column: str, change: Callable[[object], object], said: str, output: Path, scored: tuple[Path, str], models: str
) -> None:
    (path,) = (output / "scores" / f"dt={DAY}" / "category=plate").iterdir()
    rows = pq.ParquetFile(path).read()
    values = rows[column].to_pylist()
    worst = pc.index(rows["anomaly_score"], pc.max(rows["anomaly_score"])).as_py()
    values[worst] = change(values[worst])
    position = rows.schema.get_field_index(column)
    pq.write_table(rows.set_column(position, rows.schema.field(column), pa.array(values, rows.schema.field(column).type)), path)
    verify = ("verify", "--output", output, "--run-id", scored[1], "--models", models)
    lines = run(*verify, exit_code=1).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["WRONG", "run"]
    assert rows["uri"][worst].as_py() in lines[0]
    assert said in lines[0]
    assert "1 wrong" in lines[1]


def test_an_image_that_was_replaced_cannot_be_compared(
    output: Path, archive: Path, scored: tuple[Path, str], models: str
) -> None:
    image = archive / "plate" / "test" / "good" / "00.jpg"
    content, stat = image.read_bytes(), image.stat()
    try:
        image.write_bytes(content + b"\0")
        said = run("verify", "--output", output, "--run-id", scored[1], "--models", models, exit_code=4).stdout
    finally:
        image.write_bytes(content)
        os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # its time is part of its etag
    assert "GONE  plate" in said
    assert "1 gone" in said


def test_the_rows_that_were_decided_anew_are_verified_by_their_own_thresholds(output: Path, models: str) -> None:
    run_id = json_of(run("redecide", "--output", output, "--date", DAY, "--category", "lid", "--threshold", 3.0, "--json"))[
        "run_id"
    ]
    assert "0 wrong" in run("verify", "--output", output, "--run-id", run_id, "--models", models).stdout


def test_a_report_is_written_by_the_command(output: Path, scored: tuple[Path, str], models: str) -> None:
    page = run("report", "--output", output, "--run-id", scored[1], "--models", models).stdout.strip()
    text = Path(page.removeprefix("file://")).read_text()
    assert text.count("data:image/") >= 2
    assert "plate" in text
    assert "no run 'none'" in run("report", "--output", output, "--run-id", "none", exit_code=2).stderr


def test_categories_without_scores_are_left_as_they_are(output: Path) -> None:
    (hinge,) = redecide.decided(canonical(str(output)), date.fromisoformat(DAY), ["hinge"])
    assert hinge.scored == []
    assert (
        "nothing to do" in run("redecide", "--output", output, "--date", DAY, "--category", "hinge", "--threshold", 2.0).stderr
    )
