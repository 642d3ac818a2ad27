"""What `fit` says at its end: a threshold that is not guaranteed is a warning with its reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

from differnet_ray.cli.fit import fit_table, warn_skipped
from differnet_ray.pipeline.fit_state import CategoryState, FittedCategory

GUARANTEED = FittedCategory(
    version="20260131T235958Z-01234567",
    n_fitted=480,
    n_calibrated=120,
    method="held out",
    skipped={},
    epochs=3,
    resumed=(),
    loss=-1.0,
    threshold=1.5,
    target_fpr=0.01,
    achieved_fpr=1 / 121,
    extrapolated=False,
    statement="120 held-out good images: at most 0.826 % of good images are flagged",
    auroc=None,
    notes=(),
    seconds=2.0,
    peak_memory=10**9,
)


def test_a_guaranteed_threshold_is_no_warning(capsys: pytest.CaptureFixture[str]) -> None:
    warn_skipped({"lid": CategoryState(status="fitted", result=GUARANTEED), "dark": CategoryState(status="failed")})
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("extrapolated", [False, True])
def test_a_threshold_that_promises_too_little_is_a_warning(extrapolated: bool, capsys: pytest.CaptureFixture[str]) -> None:
    result = replace(GUARANTEED, target_fpr=0.001, extrapolated=extrapolated)
    warn_skipped({"lid": CategoryState(status="fitted", result=result)})
    assert capsys.readouterr().err == f"WARNING: lid: the threshold rests on {result.statement}\n"


def test_what_people_should_know_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    result = replace(GUARANTEED, notes=("8 copies at a time",), resumed=(3, 7), skipped={f"{i}.png": "torn" for i in range(7)})
    result = replace(result, pose="pose 'any': found")
    warn_skipped({"lid": CategoryState(status="fitted", result=result)})
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "lid: pose 'any': found"
    assert "WARNING: lid: 8 copies at a time" in lines
    assert "lid: an interrupted fit went on after epoch 3, 7" in lines
    assert lines[-1] == "WARNING: lid: 2 more were skipped, see model.json"


def test_the_table_says_how_many_images_calibrate_and_how() -> None:
    cross_fitted = replace(GUARANTEED, auroc=0.87654, n_fitted=40, n_calibrated=40, method="cross-fitted")
    states = {
        "lid": CategoryState(status="fitted", result=GUARANTEED),
        "nut": CategoryState(status="fitted", result=cross_fitted),
        "dark": CategoryState(status="failed", error="no light"),
    }
    text = fit_table(states)
    assert "calibrated on" in text
    assert "120 held out" in text
    assert "40 cross-fitted" in text
    assert "0.877" in text
    assert "dark: no light" in text
