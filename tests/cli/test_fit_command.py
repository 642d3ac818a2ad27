"""What the options of `fit` make of the images, without a run of Ray: the job that would be started."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from differnet_ray import cli
from differnet_ray.archives.manifest import defects
from differnet_ray.config import preset
from differnet_ray.distributed import fit, resources
from differnet_ray.pipeline.fit_category import FitJob
from differnet_ray.pipeline.fit_state import CategoryState


@pytest.fixture
def job_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., FitJob]:
    """The job that a command starts."""
    jobs: list[FitJob] = []

    def start(job: FitJob, categories: list[str], plan: Any, on_progress: Any) -> dict[str, CategoryState]:
        jobs.append(job)
        return {category: CategoryState(status="failed", error="not started") for category in categories}

    @contextmanager
    def no_cluster() -> Iterator[None]:
        yield

    monkeypatch.setattr(fit, "fit_categories", start)
    monkeypatch.setattr(resources, "cluster", no_cluster)
    monkeypatch.setattr(resources, "plan_fit", lambda *_, **__: None)

    def job_of(*arguments: object) -> FitJob:
        options = ["fit", "--models", tmp_path / "models", "--backbone-weights", "random", *arguments]
        result = CliRunner().invoke(cli.main, [str(option) for option in options])
        assert result.exit_code == 1, result.output
        assert "not started" in result.output
        return jobs[-1]

    return job_of


def categories(job: FitJob) -> Counter[str]:
    return Counter(job.listing.table["category"].to_pylist())


def test_a_data_set_is_split_into_good_training_and_labelled_test_images(job_of: Callable[..., FitJob], factory: Path) -> None:
    job = job_of("--data", factory)
    assert categories(job) == {"lid": 12, "plate": 12}
    assert job.test.table.num_rows == 16
    assert job_of("--data", factory, "--no-test").test.table.num_rows == 0
    assert categories(job_of("--data", factory, "--category", "lid")) == {"lid": 12}


def test_good_images_may_have_the_names_of_btad_or_others(job_of: Callable[..., FitJob], factory: Path, tmp_path: Path) -> None:
    for category, ok, ko in (("01", "ok", "ko"), ("02", "OK", "KO"), ("03", "Gut", "riss")):
        shutil.copytree(factory / "lid" / "train" / "good", tmp_path / "btad" / category / "train" / ok)
        shutil.copytree(factory / "lid" / "test" / "good", tmp_path / "btad" / category / "test" / ok)
        shutil.copytree(factory / "lid" / "test" / "dent", tmp_path / "btad" / category / "test" / ko)
    assert categories(job_of("--data", tmp_path / "btad")) == {"01": 12, "02": 12}
    job = job_of("--data", tmp_path / "btad", "--good", "gut")
    assert categories(job) == {"01": 12, "02": 12, "03": 12}
    assert Counter(defects(job.test.table)) == {"good": 12, "ko": 4, "KO": 4, "riss": 4}
    refused = CliRunner().invoke(cli.main, ["reproduce", *arguments_of_multimodal(tmp_path, "03")])
    assert "category '03'" in refused.output
    assert "has 0 images in train/good and ['Gut', 'riss'] in test" in refused.output
    for category, options in (("01", []), ("03", ["--good", "gut"])):  # these pass that check, and fail at the next
        result = CliRunner().invoke(cli.main, ["reproduce", *arguments_of_multimodal(tmp_path, category), *options])
        assert "expected at least 2, found" in result.output


def arguments_of_multimodal(tmp_path: Path, category: str) -> list[str]:
    where = ["--data", str(tmp_path / "btad"), "--output", str(tmp_path / "out")]
    return ["--experiment", "multimodal", "--backbone-weights", "random", *where, "--category", category]


def test_few_shots_are_drawn_from_the_seed(job_of: Callable[..., FitJob], factory: Path) -> None:
    first, again, other = (job_of("--data", factory, "--shots", 5, "--seed", seed) for seed in (1, 1, 2))
    assert categories(first) == {"lid": 5, "plate": 5}
    assert first.listing.digest() == again.listing.digest() != other.listing.digest()
    assert first.fingerprint("lid") != job_of("--data", factory, "--seed", 1).fingerprint("lid")


def test_a_grey_range_is_part_of_what_is_fitted(job_of: Callable[..., FitJob], factory: Path) -> None:
    found, given = job_of("--data", factory), job_of("--data", factory, "--grey-range", "-100:4095.5")
    assert (found.recipe.images.grey_range, given.recipe.images.grey_range) == (None, (-100, 4095.5))
    assert found.fingerprint("lid") != given.fingerprint("lid")


def test_images_are_grouped_by_names_and_names_that_do_not_fit_are_refused_before_any_work(
    job_of: Callable[..., FitJob], factory: Path, tmp_path: Path
) -> None:
    assert job_of("--data", factory).recipe.calibration.group_by == "auto"
    job = job_of("--data", factory, "--group-by", r"good/(\d)\d", "--shots", 4)
    names = Counter(str(uri).rsplit("/", 1)[1][0] for uri in job.listing.table["uri"].to_pylist())
    assert (job.recipe.calibration.group_by, names.total()) == (r"good/(\d)\d", 8)
    options = ["fit", "--models", tmp_path / "models", "--backbone-weights", "random", "--data", factory, "--group-by", "(17)"]
    result = CliRunner().invoke(cli.main, [str(option) for option in options])
    assert result.exit_code == 2
    assert "--group-by (17): not in 12 of 12 images" in result.output


def test_all_categories_together_are_one(job_of: Callable[..., FitJob], factory: Path) -> None:
    job = job_of("--data", factory, "--together", "everything", "--shots", 3)
    assert categories(job) == {"everything": 6}
    assert set(job.test.table["category"].to_pylist()) == {"everything"}


def test_a_manifest_names_images_to_train_on(job_of: Callable[..., FitJob], factory: Path, tmp_path: Path) -> None:
    good = sorted((factory / "lid" / "train" / "good").iterdir())
    defects = sorted((factory / "lid" / "test" / "dent").iterdir())
    manifest = tmp_path / "images.csv"
    with manifest.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["uri", "category", "split", "defect"])
        rows.writerows([path, "covers", "", ""] for path in good[:6])
        rows.writerows([path, "covers", "train", "good"] for path in good[6:8])
        rows.writerows([path, "covers", "test", "dent"] for path in defects)
    job = job_of("--manifest", manifest)
    assert categories(job) == {"covers": 8}
    assert job.test.table.num_rows == 4


def test_work_of_a_killed_run_goes_where_it_shall_not_resume(
    job_of: Callable[..., FitJob], factory: Path, tmp_path: Path
) -> None:
    job = job_of("--data", factory)
    work = tmp_path / "models" / "_fit" / f"lid-{job.fingerprint('lid')[:16]}"
    work.mkdir(parents=True)
    (work / "images.json").write_text("{}")
    job_of("--data", factory)
    assert work.exists()
    job_of("--data", factory, "--no-resume")
    assert not work.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "--data or --manifest"),
        (["--data", "{data}", "--manifest", "{data}"], "not both"),
        (["--data", "{data}", "--together", "a/b"], "'a/b' is not a usable name"),
        (["--data", "{data}", "--gpus-per-fit", "1.5"], "--gpus-per-fit 1.5: expected a share"),
        (["--data", "{data}", "--patience", "0"], "patience = 0"),
        (["--data", "{data}", "--shots", "1"], "--shots"),
    ],
)
def test_what_makes_no_sense_is_refused(options: list[str], words: str, factory: Path, tmp_path: Path) -> None:
    arguments = [option.format(data=factory) for option in options]
    result = CliRunner().invoke(cli.main, ["fit", "--models", str(tmp_path), "--backbone-weights", "random", *arguments])
    assert (result.exit_code, words in result.output) == (2, True), result.output


def test_the_sharpest_preset_is_the_default_and_finds_out_the_pose(job_of: Callable[..., FitJob], factory: Path) -> None:
    recipe = job_of("--data", factory).recipe
    assert recipe == preset("pooled")
    assert (recipe.transforms.pose, recipe.transforms.n_transforms) == ("auto", 32)
    assert job_of("--data", factory, "--preset", "paper").recipe == preset("paper")
    given = job_of("--data", factory, "--pose", "quarter").recipe.transforms
    assert (given.pose, given.n_transforms) == ("quarter", 4)
