"""Indexing archives of many images: time, and the largest memory of the driver.

    python -m benchmarks.indexing [FILES] [MEMBERS]

A folder of empty files in ten folders, and a tar of small members, both on the local disk; indexed twice, so that the second
time shows what the memory of archives saves. What lies on S3 costs a request for each 1000 keys besides.
"""

from __future__ import annotations

import io
import os
import resource
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from differnet_ray.data.index import Naming, sources_of
from differnet_ray.data.storage import canonical
from differnet_ray.distributed.index import index_archives
from differnet_ray.distributed.resources import cluster

FOLDERS = 10


def main(n_files: int, n_members: int) -> None:
    """Prints Markdown."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    with tempfile.TemporaryDirectory(prefix="dr", dir="/tmp") as folder, cluster():
        _make(Path(folder) / "data", n_files, n_members)
        lines = ["| what | images | seconds | largest memory of the driver |", "|---|---|---|---|"]
        for what, location in (("loose files", "loose"), ("tar", "members.tar"), ("both, again", ".")):
            began = time.monotonic()
            index = index_archives(
                sources_of([str(Path(folder) / "data" / location)]),
                Naming("part"),
                limit=None,
                cache=canonical(f"{folder}/cache"),
                on_progress=lambda progress: None,
            )
            index.write(canonical(f"{folder}/manifest"))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
            lines.append(f"| {what} | {index.n_images:,} | {time.monotonic() - began:.1f} | {peak:.0f} MiB |")
    print("\n".join(lines))


def _make(data: Path, n_files: int, n_members: int) -> None:
    for n in range(FOLDERS):
        (data / "loose" / f"{n}").mkdir(parents=True)
    for n in range(n_files):
        (data / "loose" / f"{n % FOLDERS}" / f"{n:07d}.jpg").touch()
    with tarfile.open(data / "members.tar", "w") as archive:
        for n in range(n_members):
            entry = tarfile.TarInfo(f"{n:07d}.jpg")
            entry.size = 2000
            archive.addfile(entry, io.BytesIO(bytes(2000)))


if __name__ == "__main__":
    main(*(int(given) for given in (sys.argv[1:] or ("200000", "20000"))))
