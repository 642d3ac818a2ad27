"""Indexing archives of many images: time, and the largest memory of the driver.

    python -m benchmarks.indexing [FILES] [MEMBERS] [LOCATION]

A folder of empty files in ten folders, and a tar of small members, both on the local disk; indexed twice, so that the second
time shows what the memory of archives saves. LOCATION is one more to index, such as a prefix on S3.
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

from differnet_ray.archives.index import Naming, sources_of
from differnet_ray.distributed.index import index_archives
from differnet_ray.distributed.resources import cluster
from differnet_ray.storage.locations import canonical

FOLDERS = 10


def main(n_files: int, n_members: int, *further: str) -> None:
    """Prints Markdown."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    with tempfile.TemporaryDirectory(prefix="dr", dir="/tmp") as folder, cluster():
        _make(Path(folder) / "data", n_files, n_members)
        lines = ["| what | images | seconds | largest memory of the driver |", "|---|---|---|---|"]
        made = [("loose files", "loose"), ("tar", "members.tar"), ("both, again", ".")]
        for what, location in [(what, f"{folder}/data/{name}") for what, name in made] + [(name, name) for name in further]:
            began = time.monotonic()
            index = index_archives(
                sources_of([location]),
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
    files, members, *locations = sys.argv[1:] or ("200000", "20000")
    main(int(files), int(members), *locations)
