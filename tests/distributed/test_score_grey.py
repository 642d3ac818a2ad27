"""Images of 12 bits from `fit` to the report of a run, by the commands alone."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from said import json_of

from differnet_ray import cli, results

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("local_ray")]


def run(verb: str, *arguments: object) -> Result:
    result = CliRunner().invoke(cli.main, [verb, *map(str, arguments)])
    assert result.exit_code == 0, result.output + str(result.exception)
    return result


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plates of about 2,500 counts of 12 bits; one of the test images has a stripe of 30,000."""
    root, rng = tmp_path_factory.mktemp("grey") / "data", np.random.default_rng(0)
    for folder, n in {"train/good": 8, "test/good": 3, "test/dent": 3}.items():
        (root / "lid" / folder).mkdir(parents=True)
        for i in range(n):
            counts = rng.normal(2500, 100, size=(64, 64)).clip(0, 4095)
            if folder == "test/dent":
                counts[20:40, 20:40] = 30_000 if i == 0 else 4000
            Image.fromarray(counts.astype(np.uint16)).save(root / "lid" / folder / f"{i}.png")
    return root


def test_12_bits_from_fit_to_report(data: Path, tmp_path: Path) -> None:
    models, output = tmp_path / "models", tmp_path / "output"
    recipe = ["--preset", "demo", "--image-size", 64, "--scales", 1, "--backbone-weights", "random"]
    fitted = run("fit", "--data", data, "--models", models, *recipe)
    assert "WARNING: lid: the images state no range of grey values" in fitted.stderr
    assert "12 bits are taken" in fitted.stderr
    said = run("score", "--input", data / "lid" / "test", "--category", "lid", "--models", models, "--output", output, "--json")
    assert "WARNING: lid: images with grey values outside of the model's 0 to 4095, which are clipped: 1;" in said.stderr
    record = json_of(said)
    assert results.n_clipped(str(output), record["dt"], record["run_id"], "lid") == 1
    run("verify", "--output", output, "--models", models, "--run-id", record["run_id"], "--sample", 6)
    run("report", "--output", output, "--models", models, "--run-id", record["run_id"])
    page = (output / "reports" / f"{record['run_id']}.html").read_text()
    assert "Images with grey values outside of the range of the model, which are clipped: 1." in page
    pictures = [base64.b64decode(text) for text in re.findall(r"data:image/jpeg;base64,([\w+/=]+)", page)]
    with Image.open(io.BytesIO(pictures[0])) as image:
        assert 140 < np.median(np.asarray(image)) < 175  # 2,500 of 4,095, not of 65,535
    run("evaluate", "--data", data, "--models", models, "--output", output)
    with Image.open(output / "evaluation" / "lid" / "sheet.png") as image:
        shades = np.asarray(image.convert("RGB")).astype(int)
    plate = (np.ptp(shades, axis=2) < 10) & (np.abs(shades.mean(axis=2) - 156) < 30)
    assert plate.mean() > 0.05
