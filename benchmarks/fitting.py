"""Fitting categories side by side against one after the other: `python -m benchmarks.fitting [N]`.

N made categories of 24 images of 64 pixels, flows of 2 blocks 16 wide, 150 epochs with fresh rotations, cold both times: two
runs of the command within one measurement, and the same models from both.
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

SIZES = ("--image-size=64", "--scales=1", "--transforms=16", "--blocks=2", "--hidden=16", "--epochs=150", "--fresh-epochs=150")


def main(n: int) -> None:
    """Prints Markdown."""
    with tempfile.TemporaryDirectory(prefix="dr", dir="/tmp") as folder:  # short: the path of a Unix socket is limited
        data = Path(folder) / "data"
        _make(data, n)
        seconds, digests = {}, []
        for name, parallel in {"one after the other": 1, "side by side": n}.items():
            models = Path(folder) / f"models-{parallel}"
            began = time.monotonic()
            _fit(data, models, parallel, folder)
            seconds[name] = time.monotonic() - began
            digests.append({path.parent.parent.name: _digest(path) for path in models.glob("*/2*/model.json")})
    print(f"| {n} categories on {os.cpu_count()} cores | seconds |\n|---|---|")
    for name, value in seconds.items():
        print(f"| {name} | {value:.0f} |")
    one, side = seconds.values()
    print(f"\nratio {side / one:.2f}; the models are {'the same' if digests[0] == digests[1] else 'NOT the same'}")


def _make(data: Path, n: int) -> None:
    for category in range(n):
        rng = np.random.default_rng(category)
        folder = data / f"part{category}" / "train" / "good"
        folder.mkdir(parents=True)
        for i in range(24):
            Image.fromarray(rng.integers(60, 120, (64, 64, 3), np.uint8)).save(folder / f"{i:02d}.png")


def _fit(data: Path, models: Path, parallel: int, folder: str) -> None:
    arguments = ["--data", str(data), "--models", str(models), "--backbone-weights", "random", "--clamp-alpha", "0.3", *SIZES]
    how = ["--max-parallel", str(parallel), "--scratch", f"{folder}/scratch-{parallel}"]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": folder}
    subprocess.run(  # noqa: S603
        [sys.executable, "-m", "differnet_ray.cli", "fit", *arguments, *how], check=True, env=environment, capture_output=True
    )


def _digest(path: Path) -> str:
    return str(json.loads(path.read_text())["digest"])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8)
