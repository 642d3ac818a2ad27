"""`differnet-ray models promote`: only what loads as a network is put in use, and it is said what was before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from stored_models import a_model

from differnet_ray import cli
from differnet_ray.config import Recipe
from differnet_ray.model.extractor import load_backbone_weights
from differnet_ray.model.flow import Flow
from differnet_ray.model.transforms import fixed_transforms
from differnet_ray.store.model_store import ModelStore
from differnet_ray.store.stored_model import Backbone, StoredModel


@pytest.fixture
def network(tiny_recipe: Recipe) -> StoredModel:
    """A model that is a network of its recipe, not fitted on anything."""
    flow = Flow(tiny_recipe.extractor.n_features, tiny_recipe.flow, seed=0)
    transforms = fixed_transforms(tiny_recipe.transforms)
    return a_model(
        recipe=tiny_recipe,
        transforms={name: getattr(transforms, name) for name in ("angles", "brightness", "contrast")},
        flow={name: tensor.numpy() for name, tensor in flow.state_dict().items()},
        backbone=Backbone("random-seed0", "1" * 64, False),
        weights={name: tensor.numpy() for name, tensor in load_backbone_weights("random")[0].items()},
    )


def promote(store: ModelStore, version: str, category: str = "screw") -> Result:
    return CliRunner().invoke(cli.main, ["models", "promote", category, version, "--models", store.uri])


def test_a_network_is_promoted_and_it_is_said_what_was_in_use(store: ModelStore, network: StoredModel) -> None:
    first = store.publish(network)
    second = store.publish(replace(network, decision=replace(network.decision, threshold=3.0)))
    result = promote(store, first)
    assert (result.exit_code, result.output) == (0, f"screw: {first} is in use; before: {second}\n")
    assert store.latest("screw") == first
    Path(store.uri.removeprefix("file://"), "screw", "latest.json").unlink()
    assert promote(store, second).output == f"screw: {second} is in use; before: none\n"


@pytest.mark.parametrize("part", ["a shape", "a missing array", "an unknown transform", "a backbone"])
def test_what_is_whole_but_no_network_is_not_promoted(part: str, store: ModelStore, network: StoredModel) -> None:
    name, *others = network.flow
    other = {
        "a shape": {"flow": {**network.flow, name: np.zeros((3, 7), np.float32)}},
        "a missing array": {"flow": {name: network.flow[name] for name in others}},
        "an unknown transform": {"transforms": {**network.transforms, "saturation": (1.0,)}},
        "a backbone": {"weights": a_model().weights},
    }[part]
    version, in_use = store.publish(replace(network, **other)), store.publish(a_model())
    result = promote(store, version)
    assert result.exit_code == 1, result.output
    assert f"screw {version} in {store.uri} is whole, but no network of its recipe: " in result.output
    assert "Traceback" not in result.output
    assert store.latest("screw") == in_use


def test_what_is_damaged_or_not_there_is_not_promoted(store: ModelStore, network: StoredModel) -> None:
    version, in_use = store.publish(network), store.publish(a_model())
    path = Path(store.uri.removeprefix("file://"), "screw", version, "flow.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    for name, reason in ((version, "flow.safetensors is damaged"), ("yesterday", "is not a version")):
        result = promote(store, name)
        assert result.exit_code == 1
        assert reason in result.output
    assert "no version" in promote(store, in_use, "nut").output
    assert store.latest("screw") == in_use
