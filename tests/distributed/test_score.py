"""Scoring through the real Ray Data: one row per image, and the same row however the work was cut."""

from __future__ import annotations

import shutil
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from differnet_ray.archives.fetch import FetchImages
from differnet_ray.archives.manifest import Listing, list_images, select
from differnet_ray.cli.score import run_score
from differnet_ray.distributed.index import index_listing
from differnet_ray.distributed.score import ScoreJob, models_in_use, score_archive
from differnet_ray.pipeline.stages import MapGradients, ScoreImages
from differnet_ray.results.runs import plan_run, read_table
from differnet_ray.storage.locations import canonical
from differnet_ray.tables import MAPS, SCORES

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("local_ray")]
DAY = date(2026, 1, 31)


@pytest.fixture(scope="module")
def archive(factory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both categories' test images, a category without a model, and files that are no images inside."""
    root = tmp_path_factory.mktemp("archive") / "data"
    shutil.copytree(factory, root, ignore=shutil.ignore_patterns("train", "ground_truth"))
    shutil.copytree(root / "lid" / "test", root / "hinge" / "test")
    good = root / "plate" / "test" / "good"
    (good / "empty.jpg").write_bytes(b"")
    (good / "text.png").write_text("not an image")
    (good / "cut.jpg").write_bytes((good / "00.jpg").read_bytes()[:600])
    return root


def score(listing: Listing, models: str, output: Path, **how: object) -> dict[str, object]:
    """A run through Ray with its own actors and batches."""
    in_use, sizes = models_in_use(canonical(models), listing.categories, {})
    run = plan_run(dt=DAY, listing_digest=listing.digest(), models=in_use, options={})
    job = ScoreJob(run=run, index=index_listing(listing), models=canonical(models), output=canonical(str(output)), **how)  # type: ignore[arg-type]
    seen: list[int] = []
    record = score_archive(job, sizes, lambda progress: seen.append(progress.all_done))
    assert seen[-1] == listing.table.num_rows
    return record


def by_image(rows: pa.Table, column: str) -> dict[str, object]:
    return dict(zip(rows["image_id"].to_pylist(), rows[column].to_pylist(), strict=True))


@pytest.fixture(scope="module")
def scored(archive: Path, models: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object], Listing]:
    output = tmp_path_factory.mktemp("results")
    listing = list_images([str(archive)])
    return output, score(listing, models, output), listing


def test_every_image_has_one_row_and_the_counts_reconcile(scored: tuple[Path, dict[str, object], Listing]) -> None:
    output, record, listing = scored
    rows = read_table(canonical(str(output)), SCORES)
    assert sorted(rows["image_id"].to_pylist()) == sorted(listing.table["image_id"].to_pylist())
    counts = record["counts"]
    assert isinstance(counts, dict)
    assert sum(counts.values()) == record["n_images"] == listing.table.num_rows == 27
    assert (counts["no_model"], counts["unreadable"]) == (8, 3)
    assert not (output / "_staging").exists() or not list((output / "_staging").rglob("*.parquet"))


def test_a_bad_image_is_a_row_with_a_reason(scored: tuple[Path, dict[str, object], Listing]) -> None:
    rows = read_table(canonical(str(scored[0])), SCORES).to_pylist()
    bad = {row["uri"].rsplit("/", 1)[1]: row for row in rows if row["status"] == "unreadable"}
    assert set(bad) == {"empty.jpg", "text.png", "cut.jpg"}
    assert all(row["error"] and row["anomaly_score"] is None and row["bytes"] is not None for row in bad.values())
    assert all("no model of category 'hinge'" in row["error"] for row in rows if row["category"] == "hinge")


def test_decisions_follow_from_the_scores_in_the_row(scored: tuple[Path, dict[str, object], Listing]) -> None:
    for row in read_table(canonical(str(scored[0])), SCORES).to_pylist():
        if row["anomaly_score"] is not None:
            anomalous, review = (row["anomaly_score"] >= row[name] for name in ("threshold", "review_threshold"))
            assert row["status"] == ("anomalous" if anomalous else "review" if review else "ok")
            assert 0 < row["p_value"] <= 1
            assert row["n_transforms"] == 4


def test_flagged_images_have_a_map_in_units_of_the_model(scored: tuple[Path, dict[str, object], Listing]) -> None:
    output, record, _ = scored
    rows, maps = (read_table(canonical(str(output)), table) for table in (SCORES, MAPS))
    flagged = {row["image_id"]: row for row in rows.to_pylist() if row["status"] in ("review", "anomalous")}
    assert set(maps["image_id"].to_pylist()) == set(flagged)
    assert record["n_maps"] == maps.num_rows > 0
    for row in maps.to_pylist():
        gradient = np.frombuffer(row["gradient_map"], "<f2").reshape(row["map_height"], row["map_width"])
        assert gradient.shape == (16, 16)
        peak = np.unravel_index(gradient.argmax(), gradient.shape)
        assert (
            gradient[int(flagged[row["image_id"]]["peak_y"] * 16), int(flagged[row["image_id"]]["peak_x"] * 16)]
            == gradient[peak]
        )
        coloured = (gradient > max(1, gradient.max() / 8)).mean()
        assert flagged[row["image_id"]]["area_fraction"] == pytest.approx(coloured, abs=0.01)
        assert row["map_kind"] == {"plate": "activation", "lid": "gradient"}[row["category"]]


@pytest.mark.parametrize(("n_actors", "batch_size"), [(3, 4), (1, 32)])
def test_scores_do_not_change_with_actors_batches_or_order(
    n_actors: int, batch_size: int, scored: tuple[Path, dict[str, object], Listing], models: str, tmp_path: Path
) -> None:
    output, _, listing = scored  # by one actor, in batches of 16
    order = np.random.default_rng(1).permutation(listing.table.num_rows)
    score(Listing(listing.table.take(order)), models, tmp_path, actors=(n_actors, n_actors), batch_size=batch_size)
    expected, found = (read_table(canonical(str(folder)), SCORES) for folder in (output, tmp_path))
    for column in ("status", "anomaly_score", "score_std", "p_value", "peak_x", "peak_y", "area_fraction"):
        assert by_image(found, column) == by_image(expected, column)
    maps = [by_image(read_table(canonical(str(folder)), MAPS), "gradient_map") for folder in (output, tmp_path)]
    assert maps[0] == maps[1]
    kinds = set(read_table(canonical(str(output)), MAPS)["map_kind"].to_pylist())
    assert kinds == {"activation", "gradient"}  # so both ways are compared


def test_the_job_gives_the_same_rows_as_a_plain_loop_over_the_stages(
    scored: tuple[Path, dict[str, object], Listing], models: str
) -> None:
    output, record, listing = scored
    in_use, sizes = models_in_use(canonical(models), listing.categories, {})
    versions = {category: version for category, (version, _) in in_use.items()}
    fetch = FetchImages(sizes)
    where = {"models": canonical(models), "versions": versions, "device": "cpu"}
    scoring = ScoreImages(n_transforms=None, maps="flagged", dt=DAY, run_id=str(record["run_id"]), **where)  # type: ignore[arg-type]
    mapping = MapGradients(**where)  # type: ignore[arg-type]
    single = [mapping(scoring(fetch(listing.table.slice(i, 1)))) for i in range(listing.table.num_rows)]
    looped, published = pa.concat_tables(single), read_table(canonical(str(output)), SCORES)
    scores = [by_image(rows, "anomaly_score") for rows in (looped, published)]
    assert scores[0].keys() == scores[1].keys()
    for key, value in scores[0].items():
        assert scores[1][key] == (value if value is None else pytest.approx(value, rel=1e-5))


def test_the_same_run_again_changes_nothing(factory: Path, models: str, tmp_path: Path, capsys) -> None:
    listing = select(list_images([str(factory)]), categories=["lid"], split="test")
    first = run_score(listing, models=models, output=str(tmp_path), dt=DAY, maps="none", n_transforms=2)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert run_score(listing, models=models, output=str(tmp_path), dt=DAY, maps="none", n_transforms=2) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before
    assert "nothing to do" in capsys.readouterr().err
    assert first["n_maps"] == 0
    assert set(read_table(canonical(str(tmp_path)), SCORES)["n_transforms"].to_pylist()) == {2}
