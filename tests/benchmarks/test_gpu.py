"""The script for a GPU: it runs to its end on the CPU, loses one step where one is cut off, and needs no room of data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu.images import Tiles, tiles
from benchmarks.gpu.pack import pack
from benchmarks.gpu.paper import fits_by_tile
from benchmarks.gpu.precision import FLOAT32, PRECISIONS, PreciseExtractor
from benchmarks.gpu.processes import side_by_side
from benchmarks.gpu.setting import Results, Setting
from benchmarks.tile_split import held_out, numbers_of, tiles_of
from differnet_ray.config import ExtractorConfig
from differnet_ray.model.extractor import Extractor, load_backbone_weights

ROOT = Path(__file__).parents[2]
MISSING = ("ray", "duckdb", "s3fs", "botocore", "tenacity", "pyarrow", "matplotlib", "differnet_ray.storage")


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    """A small run without data, which draws its images."""
    return Setting("cpu", True, tmp_path / "nothing", tmp_path, tmp_path)


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_all_steps_run_to_their_end_on_the_cpu_and_write_figures(tmp_path: Path) -> None:
    environment = os.environ | {"WORK": str(tmp_path / "work"), "OUT": str(tmp_path / "out"), "PYTHON": sys.executable}
    command = [str(ROOT / "benchmarks" / "gpu" / "run.sh"), "--cpu", "--small"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=840, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    found = lines(tmp_path / "out")
    assert {line["step"] for line in found if line["what"] != "step"} >= set(gpu.STEPS) - {"tile-features"}
    assert [line["step"] for line in found if line["what"] == "step"] == list(gpu.STEPS)
    same = next(line for line in found if line["what"] == "paper: the same twice, largest relative difference")
    assert same["features"] == same["scores"] == 0
    aurocs = [line["auroc"] for line in found if line["step"] == "by-tile" and line.get("epoch") == 4]
    assert len(aurocs) == 5


def test_a_step_that_hangs_is_cut_off_and_one_that_fails_is_told(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def hang(setting: Setting) -> None:
        Results(setting.out, "hangs").add("first", figure=1.0)
        time.sleep(60)

    def fail(setting: Setting) -> None:
        raise ValueError("on purpose")

    monkeypatch.setattr(gpu, "STEPS", {"hangs": gpu.Step(hang, 1), "fails": gpu.Step(fail, 1)})
    monkeypatch.setattr(gpu, "GRACE", 0.5)
    assert gpu._run("hangs", setting, 1.0) == "cut off"
    assert gpu._run("fails", setting, 20.0) == "failed, exit code 1"
    assert [(line["step"], line["what"]) for line in lines(setting.out)] == [("hangs", "first"), ("fails", "failed")]
    assert "on purpose" in capfd.readouterr().err


def test_a_process_that_dies_has_no_result_and_the_others_have_theirs() -> None:
    assert side_by_side([lambda: 1, lambda: os._exit(3), lambda: 3]) == [1, None, 3]


def test_the_script_imports_nothing_that_the_machine_may_lack() -> None:
    script = f"import sys, benchmarks.gpu.__main__; print([name for name in {MISSING} if name in sys.modules])"
    command = [sys.executable, "-c", script]
    run = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=240
    )
    assert run.stdout.strip() == "[]", run.stderr


def test_tiles_are_told_apart_by_gaps_and_folds_by_tile_hold_out_whole_ones() -> None:
    numbers = numbers_of(f"train/good/exp{e}_num_{1000 * tile + e}.jpg" for tile in range(12) for e in range(6))
    tile = tiles_of(numbers)
    assert tile.tolist() == [i // 6 for i in range(72)]
    for folds in held_out(tile).values():
        assert sorted(np.concatenate(folds).tolist()) == list(range(72))
    for fold in held_out(tile)["by tile"]:
        assert not set(tile[fold]) & set(np.delete(tile, fold))


def test_a_fit_by_tile_scores_the_tiles_that_it_is_not_fitted_on_and_all_defects(setting: Setting) -> None:
    found = tiles(setting)
    good = [*range(found.n_train), *np.flatnonzero(~found.is_anomaly & (np.arange(len(found.names)) >= found.n_train))]
    numbers = numbers_of(found.names[i] for i in good)
    tile, scored = tiles_of(numbers), []
    for each in fits_by_tile(found):
        rows = [row if name == "train-fixed" else found.n_train + row for name, part in each.tests for row in part]
        assert not found.is_anomaly[rows[: each.n_good]].any()
        assert sorted(rows[each.n_good :]) == np.flatnonzero(found.is_anomaly).tolist()
        fitted = {tile[row] for row in each.chosen or ()}
        assert fitted
        assert not fitted & {tile[good.index(row)] for row in rows[: each.n_good]}
        scored += rows[: each.n_good]
    assert sorted(scored) == sorted(good)


def test_images_are_decoded_once_and_sampled_from_the_test_images(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tiles(setting)
    monkeypatch.setattr("benchmarks.gpu.images.decode", None)
    again: Tiles = tiles(setting)
    assert np.array_equal(first.pixels, again.pixels)
    chosen = again.sample(3, 4)
    assert again.is_anomaly[chosen].tolist() == [False] * 3 + [True] * 4
    assert min(chosen) >= again.n_train


@pytest.mark.parametrize("precision", PRECISIONS, ids=lambda precision: precision.name)
def test_the_extractor_in_float32_is_the_packages_and_others_are_near_it(precision: object) -> None:
    config, weights = ExtractorConfig(image_size=64, n_scales=1), load_backbone_weights("random")[0]
    x: Tensor = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected, found = Extractor(config, weights)(x), PreciseExtractor(config, weights, precision)(x)
    if precision is FLOAT32:
        assert torch.equal(found, expected)
    assert found.dtype == torch.float32
    assert torch.linalg.norm(found - expected) < 0.02 * torch.linalg.norm(expected)


def test_the_package_has_weights_images_and_freia_but_no_masks(tmp_path: Path) -> None:
    for name in (
        "weights/alexnet-imagenet1k-v1-features.safetensors",
        "mtd/magnetic_tile/train/good/a.jpg",
        "mtd/magnetic_tile/test/crack/b.jpg",
        "mtd/magnetic_tile/ground_truth/crack/b_mask.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"content")
    pack(tmp_path, tmp_path / "package")
    with tarfile.open(tmp_path / "package" / "data.tar.gz") as archive:
        names = [Path(name).name for name in archive.getnames()]
    assert names == ["alexnet-imagenet1k-v1-features.safetensors", "b.jpg", "a.jpg"]
    assert (tmp_path / "package" / "site" / "FrEIA" / "__init__.py").is_file()
