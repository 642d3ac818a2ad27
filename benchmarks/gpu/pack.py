"""Writes what a machine without registries lacks: FrEIA, the backbone's weights and the tiles, to `benchmarks/gpu/package/`.

    python -m benchmarks.gpu.pack FOLDER

FOLDER holds `weights/` and `mtd/`, as DIFFERNET_TEST_DATA does. FrEIA, which is pure Python, is the installed one: the locked
version with its checked hash. Masks are not packed.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tarfile
from pathlib import Path

from benchmarks.gpu.images import CATEGORY
from benchmarks.gpu.setting import WEIGHTS

PACKAGE = Path(__file__).parent / "package"


def main(folder: Path) -> None:
    """Writes the package anew and prints its size."""
    shutil.rmtree(PACKAGE, ignore_errors=True)
    pack(folder, PACKAGE)
    size = sum(path.stat().st_size for path in PACKAGE.rglob("*") if path.is_file())
    print(f"{PACKAGE}: {size / 2**20:.1f} MiB")


def pack(folder: Path, package: Path) -> None:
    """Writes FrEIA to `package/site/`, and weights and images to `package/data.tar.gz`.

    Raises:
        FileNotFoundError: FrEIA, the weights or the images are not there.
    """
    found = importlib.util.find_spec("FrEIA")
    if found is None or found.origin is None:
        raise FileNotFoundError("FrEIA is not installed here: run `make test` or install requirements.lock first")
    images = sorted(path for split in ("train", "test") for path in (folder / CATEGORY / split).glob("*/*"))
    if not images or not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"{folder} must hold {WEIGHTS} and {CATEGORY}/train and test, as DIFFERNET_TEST_DATA does")
    shutil.copytree(Path(found.origin).parent, package / "site" / "FrEIA", ignore=shutil.ignore_patterns("__pycache__"))
    with tarfile.open(package / "data.tar.gz", "w:gz", compresslevel=6) as archive:
        for path in (folder / WEIGHTS, *images):
            archive.add(path, path.relative_to(folder).as_posix())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python -m benchmarks.gpu.pack FOLDER\n\n{__doc__}")
    main(Path(sys.argv[1]))
