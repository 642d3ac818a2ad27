"""Memory of a scoring run along an archive: of the driver, and of the scoring, mapping and fetching processes.

    python -m benchmarks.flat_memory [ROWS]

Images of 64 pixels in tars of 1000 members, one transform, a flow of 2 blocks 16 wide: so little work that an archive of
many rows is done in minutes. Resident memory is read every second; the largest process of each kind is shown.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = ("--image-size=64", "--scales=1", "--transforms=1", "--blocks=2", "--hidden=16", "--clamp-alpha=0.3", "--epochs=1")
PER_TAR, TENTHS = 1000, 10
KINDS = {
    "driver": "differnet_ray.cli score",
    "scoring actor": "ScoringActor",
    "map actor": "MapActor",
    "fetching": "FetchImages",
}


def main(n: int) -> None:
    """Prints Markdown."""
    with tempfile.TemporaryDirectory(prefix="dr", dir="/tmp") as folder:
        environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": folder}
        _make(Path(folder), n)
        command = [sys.executable, "-m", "differnet_ray.cli"]
        where = ["--models", f"{folder}/models"]
        weights = ["--backbone-weights", "random", "--fresh-epochs", "1", "--no-test"]
        fit = [*command, "fit", "--data", f"{folder}/data", *where, *weights, *SIZES]
        subprocess.run(fit, env=environment, check=True)  # noqa: S603
        began = time.monotonic()
        arguments = ["--input", f"{folder}/archive", "--category", "part", "--output", f"{folder}/out"]
        score = [*command, "score", *arguments, *where]
        driver = subprocess.Popen(score, env=environment, stdout=subprocess.DEVNULL)  # noqa: S603
        seen: list[dict[str, float]] = []
        while driver.poll() is None:
            seen.append(_memory())
            time.sleep(1)
        seconds = time.monotonic() - began
    print(
        f"{n:,} rows in {seconds:.0f} s, MiB:\n\n| part of the run | " + " | ".join(KINDS) + " |\n|---|" + "---|" * len(KINDS)
    )
    for tenth in range(TENTHS):
        part = seen[len(seen) * tenth // TENTHS : len(seen) * (tenth + 1) // TENTHS]
        largest = (max((look.get(kind, 0) for look in part), default=0) for kind in KINDS)
        print(f"| {tenth + 1} | " + " | ".join(f"{value:.0f}" for value in largest) + " |")


def _memory() -> dict[str, float]:
    """The largest resident memory of the processes of each kind, in MiB."""
    found: dict[str, float] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone meanwhile
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            resident = int((process / "statm").read_text().split()[1]) * resource.getpagesize() / 2**20
            for kind, part in KINDS.items():
                if part in command:
                    found[kind] = max(found.get(kind, 0), resident)
    return found


def _make(folder: Path, n: int) -> None:
    rng = np.random.default_rng(0)
    images = []
    for _ in range(50):
        sink = io.BytesIO()
        Image.fromarray(rng.integers(60, 120, (64, 64, 3), np.uint8)).save(sink, "JPEG")
        images.append(sink.getvalue())
    good = folder / "data" / "part" / "train" / "good"
    good.mkdir(parents=True)
    for i, data in enumerate(images):
        (good / f"{i}.jpg").write_bytes(data)
    (folder / "archive").mkdir()
    for start in range(0, n, PER_TAR):
        with tarfile.open(folder / "archive" / f"{start:08d}.tar", "w") as archive:
            for i in range(start, min(n, start + PER_TAR)):
                entry = tarfile.TarInfo(f"{i:08d}.jpg")
                entry.size = len(images[i % 50])
                archive.addfile(entry, io.BytesIO(images[i % 50]))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
