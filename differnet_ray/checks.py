"""What a check found, and the checks of the machine that `doctor` runs on. Standard library only."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

State = Literal["ok", "note", "FAIL"]  # a note is no reason not to begin
GIB = 2**30
FREE_DISK = 5 * GIB  # a paper-size model takes 0.7 GB, Ray's object store spills to disk
FREE_MEMORY = 3 * GIB  # Ray itself takes 0.7 GiB, a scoring actor 1 GiB, a pooled fit 2 GiB
SHARED_MEMORY = GIB // 2  # of the object store: 16 decoded images take 10 MB, and Docker gives 64 MiB where nothing is said
MEMORY_FILES = {  # limits of a container, and what it uses: version 2 of cgroups, then version 1
    "/sys/fs/cgroup/memory.max": "/sys/fs/cgroup/memory.current",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes": "/sys/fs/cgroup/memory/memory.usage_in_bytes",
}


@dataclass(frozen=True)
class Check:
    """What a check found.

    Attributes:
        name: of what was checked.
        state: `FAIL` where a job would fail, `note` where something had better be mended.
        found: in one line.
        mend: what to do; empty where there is nothing to do.
    """

    name: str
    state: State
    found: str
    mend: str = ""

    def __str__(self) -> str:
        """One line.

        >>> str(Check("disk", "FAIL", "1 GiB free", "free 5 GiB"))
        'FAIL  disk: 1 GiB free -> free 5 GiB'
        """
        return f"{self.state:4}  {self.name}: {self.found}" + (f" -> {self.mend}" if self.mend else "")


def check_machine(temporary: str) -> Iterator[Check]:
    """Memory, shared memory, the disk for temporary files, and the driver of a GPU.

    Args:
        temporary: the folder for temporary files.
    """
    yield enough("memory", free_memory(), FREE_MEMORY, "free", "end other programs, or give the container more")
    if os.path.isdir("/dev/shm"):  # noqa: S108  # Ray's object store is there
        size = shutil.disk_usage("/dev/shm").total  # noqa: S108
        yield enough(
            "shared memory", size, SHARED_MEMORY, "in /dev/shm", "docker run --shm-size=4g, or a larger emptyDir", "note"
        )
    free = shutil.disk_usage(temporary).free
    yield enough("temporary files", free, FREE_DISK, f"free in {temporary}", "free 5 GiB, or set TMPDIR")
    yield gpu_driver()


def enough(name: str, found: int, needed: int, what: str, mend: str, less: State = "FAIL") -> Check:
    """Whether so many bytes are enough."""
    return Check(name, "ok" if found >= needed else less, f"{found / GIB:.1f} GiB {what}", "" if found >= needed else mend)


def free_memory() -> int:
    """Bytes that this process may still take: of the machine, or of its container where that has less."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    for limit, used in MEMORY_FILES.items():
        try:
            most, taken = Path(limit).read_text(encoding="ascii").strip(), Path(used).read_text(encoding="ascii")
        except OSError:
            continue
        if most != "max":
            free = min(free, int(most) - int(taken))
    return free


def gpu_driver() -> Check:
    """What NVIDIA's driver says of the GPUs."""
    asked = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        run = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=False)  # noqa: S603
    except FileNotFoundError:
        return Check("gpu driver", "ok", "none")
    except subprocess.TimeoutExpired:
        return Check("gpu driver", "FAIL", "nvidia-smi does not answer", "restart the machine: its GPU hangs")
    if run.returncode:
        said = (run.stdout + run.stderr).strip().splitlines()
        return Check("gpu driver", "FAIL", said[0] if said else "nvidia-smi fails", "install the driver anew; see nvidia-smi")
    return Check("gpu driver", "ok", "; ".join(" ".join(line.split()) for line in run.stdout.strip().splitlines()))
