"""Models of the small factory, fitted once through the real Ray Train."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from differnet_ray.cli.fit import run_fit
from differnet_ray.config import Recipe

sys.path.insert(0, str(Path(__file__).parent))  # fit_jobs is imported by name


@pytest.fixture(scope="session")
def models(factory: Path, tiny_recipe: Recipe, local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model store with both categories, one with maps of each kind."""
    folder = str(tmp_path_factory.mktemp("models"))
    for category, kind in (("plate", "activation"), ("lid", "gradient")):
        states = run_fit(str(factory), folder, (category,), tiny_recipe.override(map_kind=kind), "random")
        assert {name: state.status for name, state in states.items()} == {category: "fitted"}
    return folder


@pytest.fixture
def ray_folder() -> Iterator[str]:
    """A folder for the Ray of commands; short, since the path of a Unix socket has at most 107 characters."""
    folder = tempfile.mkdtemp(prefix="dr", dir="/tmp")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
