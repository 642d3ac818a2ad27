"""Fitting categories side by side against one after the other: `python -m benchmarks.fitting [KIND]`.

Eight made categories of 24 images of 64 pixels, flows of 2 blocks 16 wide, cross-fitted, cold both times: two runs of the
command within one measurement, and the same models from both. Once where the epochs take most of the time (300, one of them
fresh), and once where the features do (150, all of them fresh), which one fit alone computes on all cores as well.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = ("--image-size=64", "--scales=1", "--transforms=16", "--blocks=2", "--hidden=16", "--clamp-alpha=0.3")
KINDS = {"epochs": ("--epochs=300", "--fresh-epochs=1"), "features": ("--epochs=150", "--fresh-epochs=150")}


def main(n: int, kinds: list[str]) -> None:
    """Prints Markdown."""
    print(f"{n} categories on {os.cpu_count()} cores, seconds:\n")
    print("| most time goes to | one after the other | side by side | ratio | models |\n|---|---|---|---|---|")
    for kind in kinds or KINDS:
        with tempfile.TemporaryDirectory(prefix="dr", dir="/tmp") as folder:  # short: the path of a Unix socket is limited
            data = Path(folder) / "data"
            _make(data, n)
            (one, first), (side, second) = (_fit(data, Path(folder), parallel, KINDS[kind]) for parallel in (1, n))
        same = "the same" if first == second else "NOT the same"
        print(f"| {kind} | {one:.0f} | {side:.0f} | {side / one:.2f} | {same} |", flush=True)


def _make(data: Path, n: int) -> None:
    for category in range(n):
        rng = np.random.default_rng(category)
        folder = data / f"part{category}" / "train" / "good"
        folder.mkdir(parents=True)
        for i in range(24):
            Image.fromarray(rng.integers(60, 120, (64, 64, 3), np.uint8)).save(folder / f"{i:02d}.png")


def _fit(data: Path, folder: Path, parallel: int, options: tuple[str, ...]) -> tuple[float, dict[str, str]]:
    """Seconds of the command, and the digests of its models."""
    models = folder / f"models-{parallel}"
    arguments = ["--data", str(data), "--models", str(models), "--backbone-weights", "random", *SIZES, *options]
    how = ["--max-parallel", str(parallel), "--scratch", f"{folder}/scratch-{parallel}"]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": str(folder)}
    began = time.monotonic()
    subprocess.run(  # noqa: S603
        [sys.executable, "-m", "differnet_ray.cli", "fit", *arguments, *how], check=True, env=environment, capture_output=True
    )
    seconds = time.monotonic() - began
    return seconds, {path.parts[-3]: json.loads(path.read_text())["digest"] for path in models.glob("*/2*/model.json")}


if __name__ == "__main__":
    main(8, sys.argv[1:])
