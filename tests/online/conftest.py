"""The endpoint in this process: a real web server, a real scorer, small fitted models; no Ray."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from online_models import fit_models, local_scorer
from online_server import Served, served

from differnet_ray.config import Recipe
from differnet_ray.online.options import Limits, Options

LIMITS = Limits(idle_seconds=0.5, body_seconds=1.0, decode_seconds=10.0)


@pytest.fixture(scope="session")
def online_models(factory: Path, tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model store with both categories; tests that change it take a copy."""
    return fit_models(factory, tiny_recipe, tmp_path_factory.mktemp("online") / "models")


@pytest.fixture(scope="session")
def endpoint(online_models: str) -> Iterator[Served]:
    """An endpoint without tokens that cuts slow senders off soon."""
    with local_scorer(online_models, LIMITS) as scorer, served(online_models, scorer, Options(LIMITS)) as running:
        yield running
