"""What `doctor` says of the machine."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from differnet_ray.checks import GIB, Check, check_machine, enough, free_memory, gpu_driver


def test_every_part_of_the_machine_has_a_line(tmp_path: Path) -> None:
    found = {check.name: check for check in check_machine(str(tmp_path))}
    assert list(found) == ["memory", "shared memory", "temporary files", "gpu driver"]
    assert f"{shutil.disk_usage(tmp_path).free / GIB:.0f}"[:-1] in found["temporary files"].found
    assert all(("->" in str(check)) == bool(check.mend) for check in found.values())


def test_too_little_is_a_failure_with_its_mend() -> None:
    assert enough("memory", GIB, 2 * GIB, "free", "add some") == Check("memory", "FAIL", "1.0 GiB free", "add some")
    assert enough("memory", 2 * GIB, 2 * GIB, "free", "add some") == Check("memory", "ok", "2.0 GiB free")
    assert enough("shared memory", 0, 1, "there", "add some", less="note").state == "note"


def test_free_memory_is_no_more_than_the_machine_has() -> None:
    assert 0 < free_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("script", "state", "words"),
    [
        ("echo 'NVIDIA H200, 570.86, 143771 MiB'", "ok", "NVIDIA H200, 570.86, 143771 MiB"),
        ("echo 'NVIDIA-SMI has failed: the driver is not loaded'; exit 9", "FAIL", "the driver is not loaded"),
        (None, "ok", "none"),
    ],
)
def test_the_driver_says_what_gpus_there_are(
    script: str | None, state: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if script is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    check = gpu_driver()
    assert check.state == state
    assert words in check.found
