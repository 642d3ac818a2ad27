"""A scoring run on two nodes, one of which is lost: the rows are those of a plain loop."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from scored_without_ray import scores_without_ray

from differnet_ray.archives.manifest import list_images
from differnet_ray.results.runs import read_table
from differnet_ray.storage.locations import canonical
from differnet_ray.tables import MAPS, SCORES

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]
COPIES = 20  # of each test image, so that the node is lost in the middle


def test_a_node_is_lost_and_no_row_is(factory: Path, models: str, tmp_path: Path, ray_folder: str) -> None:
    archive = tmp_path / "archive"
    for path in factory.glob("*/test/*/*"):
        for copy in range(COPIES):
            target = archive / path.relative_to(factory).with_stem(f"{path.stem}-{copy}")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    expected = scores_without_ray(list_images([str(archive)]).table, canonical(models))
    output = canonical(str(tmp_path / "results"))
    script = Path(__file__).with_name("lose_a_scoring_node.py")
    run = subprocess.run(
        [sys.executable, script, archive, canonical(models), output, ray_folder],
        capture_output=True,
        text=True,
        timeout=150,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["alive"] == 1
    assert len(expected) // 4 <= found["lost"]["at"] < len(expected)
    assert found["lost"]["actors"] >= 1
    rows = read_table(output, SCORES)
    scores = dict(zip(rows["image_id"].to_pylist(), rows["anomaly_score"].to_pylist(), strict=True))
    assert len(scores) == rows.num_rows == found["record"]["n_images"] == read_table(output, MAPS).num_rows
    assert scores == {name: pytest.approx(score, rel=1e-5) for name, score in expected.items()}
