"""Models of the small factory, fitted once through the real Ray Train."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from differnet_ray.cli.fit import run_fit
from differnet_ray.config import Recipe

sys.path.insert(0, str(Path(__file__).parent))  # fit_jobs is imported by name


@pytest.fixture(scope="session")
def models(factory: Path, tiny_recipe: Recipe, local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model store with both categories."""
    folder = str(tmp_path_factory.mktemp("models"))
    states = run_fit(str(factory), folder, (), tiny_recipe, "random")
    assert {category: state.status for category, state in states.items()} == {"plate": "fitted", "lid": "fitted"}
    return folder
