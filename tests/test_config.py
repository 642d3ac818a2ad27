"""The recipe: survives JSON, refuses values with their key and range, and is the published one as `paper`."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from typing import Any

import pytest

from differnet_ray.config import (
    PRESETS,
    CalibrationConfig,
    ExtractorConfig,
    FitConfig,
    FlowConfig,
    ImageConfig,
    MapConfig,
    Recipe,
    TransformConfig,
    preset,
)
from differnet_ray.errors import ConfigError

SECTIONS: dict[str, type[Any]] = {
    "extractor": ExtractorConfig,
    "transforms": TransformConfig,
    "flow": FlowConfig,
    "fit": FitConfig,
    "calibration": CalibrationConfig,
    "maps": MapConfig,
    "images": ImageConfig,
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_recipe_survives_json(name: str) -> None:
    recipe = preset(name)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_sections_and_keys_that_are_left_out_have_their_defaults() -> None:
    assert Recipe.from_dict({}) == Recipe()
    assert Recipe.from_dict({"fit": {"epochs": 3}}) == Recipe(fit=FitConfig(epochs=3))


def test_a_recipe_that_is_older_than_groups_has_none() -> None:
    values = Recipe().to_dict()
    assert values["calibration"].pop("group_by") == "auto"
    assert Recipe.from_dict(values) == Recipe().override(group_by="none")


def test_a_record_from_before_there_were_kinds_of_maps_has_gradient_maps() -> None:
    maps = {key: value for key, value in preset("pooled").to_dict()["maps"].items() if key != "map_kind"}
    assert Recipe.from_dict({"maps": maps}).maps.map_kind == "gradient"
    assert Recipe().maps.map_kind == "activation"


OUT_OF_RANGE: list[tuple[str, str, Any]] = [
    ("extractor", "image_size", 251),
    ("extractor", "image_size", 450),  # not a multiple of 4
    ("extractor", "image_size", 4100),
    ("extractor", "n_scales", 0),
    ("extractor", "n_scales", 6),
    ("extractor", "network", "resnet18"),
    ("extractor", "layers", (3,)),  # AlexNet has one
    ("extractor", "channels", ()),
    ("extractor", "channels", (256, 256)),
    ("extractor", "mean", (0.5,)),
    ("extractor", "std", (0.5, 0.5, 0.0)),
    ("transforms", "n_transforms", 0),
    ("transforms", "n_transforms", 1025),
    ("transforms", "brightness", -0.1),
    ("transforms", "brightness", 1.0),
    ("transforms", "contrast", -0.1),
    ("transforms", "contrast", 1.0),
    ("transforms", "pooled", 1),
    ("transforms", "pose", "upright"),
    ("flow", "power", 0.0),
    ("flow", "power", 1.1),
    ("flow", "shrinkage", 0.0),
    ("flow", "shrinkage", 1.0),
    ("flow", "n_blocks", -1),
    ("flow", "n_blocks", 65),
    ("flow", "hidden", 0),
    ("flow", "hidden", 16385),
    ("flow", "clamp_alpha", 0.0),
    ("flow", "clamp_alpha", float("nan")),
    ("flow", "first_layer", "pca"),
    ("fit", "epochs", 0),
    ("fit", "epochs", 1_000_001),
    ("fit", "images_per_batch", 0),
    ("fit", "transforms_per_image", 0),
    ("fit", "fresh_epochs", 0),
    ("fit", "learning_rate", 0.0),
    ("fit", "learning_rate", float("nan")),
    ("fit", "eps", 0.0),
    ("fit", "betas", (0.9, 1.0)),
    ("fit", "betas", (-0.1, 0.9)),
    ("fit", "weight_decay", -1e-5),
    ("fit", "max_grad_norm", 0.0),
    ("fit", "patience", 0),
    ("fit", "validation_fraction", 0.0),
    ("fit", "validation_fraction", 1.0),
    ("fit", "seed", -1),
    ("fit", "seed", 2**63),
    ("calibration", "group_by", ""),
    ("calibration", "group_by", 3),
    ("calibration", "holdout_fraction", 0.0),
    ("calibration", "holdout_fraction", 1.0),
    ("calibration", "cross_fit_below", -1),
    ("calibration", "cross_fit_below", 1_000_001),
    ("calibration", "folds", -1),
    ("calibration", "folds", 1),
    ("calibration", "folds", 101),
    ("calibration", "target_fpr", 0.0),
    ("calibration", "target_fpr", 1.0),
    ("calibration", "review_fpr", 0.009),  # below target_fpr
    ("calibration", "review_fpr", 1.0),
    ("maps", "map_kind", "cam"),
    ("maps", "n_rotations", 0),
    ("maps", "n_rotations", 1025),
    ("maps", "sigma", 0.0),
    ("maps", "downsample", 3),
    ("images", "grey_range", (4095.0, 4095.0)),
    ("images", "grey_range", (4095.0, 0.0)),
    ("images", "grey_range", (0.0, float("nan"))),
    ("images", "grey_range", (0.0, float("inf"))),
    ("images", "grey_range", (0.0, 1.0, 2.0)),
]


@pytest.mark.parametrize(("section", "key", "value"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_refused_with_key_value_and_what_is_allowed(section: str, key: str, value: Any) -> None:
    says = f"^{key} = {re.escape(repr(value))} is not allowed: expected .*(\\d|positive|zero|whiten|true|any|auto|activation)"
    with pytest.raises(ConfigError, match=says):
        SECTIONS[section](**{key: value})
    with pytest.raises(ConfigError, match=says):
        Recipe.from_dict({section: {key: value}})
    with pytest.raises(ConfigError, match=says):
        Recipe().override(**{key: value})


def test_a_flow_without_blocks_needs_a_first_layer() -> None:
    with pytest.raises(ConfigError, match=r"first_layer = 'none' is not allowed: expected standardize, whiten"):
        FlowConfig(n_blocks=0)
    assert FlowConfig(n_blocks=0, first_layer="whiten").n_blocks == 0


@pytest.mark.parametrize("key", sorted(f"{name}.{field.name}" for name, cls in SECTIONS.items() for field in fields(cls)))
def test_every_key_has_a_range(key: str) -> None:
    assert any(f"{section}.{name}" == key for section, name, _ in OUT_OF_RANGE)


@pytest.mark.parametrize("betas", [(0.9,), (0.9, 0.99, 0.999), ()])
def test_betas_are_two_numbers(betas: Any) -> None:
    with pytest.raises(ConfigError, match="two numbers"):
        FitConfig(betas=betas)


@pytest.mark.parametrize(("section", "key"), [("fit", "epochs"), ("flow", "clamp_alpha"), ("maps", "sigma")])
@pytest.mark.parametrize("value", ["many", None])
def test_a_value_that_is_no_number_is_refused_as_configuration(section: str, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=key):
        Recipe.from_dict({section: {key: value}})


@pytest.mark.parametrize(
    "config",
    [
        ExtractorConfig(image_size=63, n_scales=1),
        ExtractorConfig(image_size=4096, n_scales=5),
        TransformConfig(n_transforms=1024, brightness=0.999, contrast=0.0),
        TransformConfig(n_transforms=4, pose="quarter"),
        TransformConfig(n_transforms=1024, pose="quarter", contrast=0.1),
        TransformConfig(n_transforms=1024, pose="auto"),
        CalibrationConfig(target_fpr=0.3, review_fpr=0.3),
        CalibrationConfig(cross_fit_below=0, folds=0),
        CalibrationConfig(cross_fit_below=1_000_000, folds=2),
        FitConfig(betas=(0.0, 0.0), weight_decay=0.0, max_grad_norm=None, seed=2**63 - 1),
    ],
)
def test_the_ends_of_the_ranges_are_allowed(config: Any) -> None:
    assert replace(config) == config


@pytest.mark.parametrize(("image_size", "n_scales", "n_features"), [(448, 3, 768), (64, 1, 256), (1008, 5, 1280)])
def test_there_are_256_features_per_scale(image_size: int, n_scales: int, n_features: int) -> None:
    assert ExtractorConfig(image_size, n_scales).n_features == n_features


@pytest.mark.parametrize("layers", [(), (4, 3), (3, 3), (-1,)])
def test_layers_of_timm_are_counted_from_the_finest(layers: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"layers = .* is not allowed: expected rising numbers from 0 on"):
        ExtractorConfig(network="timm:resnet18", layers=layers, channels=(8,) * len(layers))


def test_features_are_the_channels_of_all_layers_at_all_scales() -> None:
    assert ExtractorConfig(network="timm:resnet18", layers=(3, 4), channels=(256, 512)).n_features == 3 * 768


def test_a_record_older_than_other_networks_is_of_alexnet() -> None:
    assert Recipe.from_dict({"extractor": {"image_size": 448, "n_scales": 3}}).extractor == ExtractorConfig()


def test_maps_must_divide_the_image() -> None:
    with pytest.raises(ConfigError, match=r"maps\.downsample = 4 is not allowed: expected a divisor of image_size = 63"):
        Recipe(extractor=ExtractorConfig(image_size=63, n_scales=1))


def test_unknown_sections_and_keys_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'fits' is not allowed: expected extractor, .*maps"):
        Recipe.from_dict({"fits": {}})
    with pytest.raises(ConfigError, match=r"fit key = 'epoch' is not allowed: expected epochs, images_per_batch, .*seed"):
        Recipe.from_dict({"fit": {"epoch": 3}})
    with pytest.raises(ConfigError, match=r"'best' is not allowed: expected paper, pooled, demo"):
        preset("best")


def test_override_replaces_the_named_values_and_nothing_else() -> None:
    base = preset("paper")
    changed = base.override(epochs=7, hidden=None, image_size=256, target_fpr=0.02)
    assert changed == replace(
        base,
        extractor=replace(base.extractor, image_size=256),
        fit=replace(base.fit, epochs=7),
        calibration=replace(base.calibration, target_fpr=0.02),
    )
    assert base == preset("paper")
    assert base.override() == base


def test_override_refuses_unknown_keys_and_values_that_do_not_fit_together() -> None:
    with pytest.raises(ConfigError, match="epoch, depth"):
        Recipe().override(epoch=3, depth=2, hidden=8)
    with pytest.raises(ConfigError, match="image_size"):
        Recipe().override(n_scales=5, image_size=500)
    with pytest.raises(ConfigError, match=r"maps\.downsample"):
        Recipe().override(n_scales=1, image_size=66)


def test_there_are_four_quarter_turns_unless_factors_vary() -> None:
    with pytest.raises(ConfigError, match=r"n_transforms = 5 is not allowed: expected 1 to 4 for pose = 'quarter'"):
        TransformConfig(n_transforms=5, pose="quarter")
    with pytest.raises(ConfigError, match="n_transforms = 8"):
        preset("paper").override(pose="quarter", n_transforms=8)


@pytest.mark.parametrize("name", PRESETS)
def test_a_pose_comes_with_the_transforms_that_pay_for_it(name: str) -> None:
    recipe = preset(name)
    assert recipe.override(pose="any") == recipe.override(pose="any", n_transforms=recipe.transforms.n_transforms)
    assert recipe.override(pose="quarter").transforms.n_transforms == 4
    assert recipe.override(pose="quarter", n_transforms=2).transforms.n_transforms == 2
    assert recipe.override(pose="fixed", n_transforms=99).transforms.n_transforms == 99
    assert recipe.override(n_transforms=1).override(pose="fixed").transforms.n_transforms == 1


def test_recipes_from_before_poses_hold_for_parts_in_any() -> None:
    assert Recipe.from_dict({"transforms": {"n_transforms": 8, "pooled": True}}).transforms.pose == "any"


def test_a_key_names_one_value_only() -> None:
    keys = [field.name for cls in SECTIONS.values() for field in fields(cls)]
    assert len(keys) == len(set(keys))
    assert list(SECTIONS) == [field.name for field in fields(Recipe)]


def test_the_paper_preset_is_the_published_recipe() -> None:
    paper = preset("paper")
    assert (paper.extractor.image_size, paper.extractor.n_scales, paper.extractor.n_features) == (448, 3, 768)
    assert paper.transforms.n_transforms == 64
    assert (paper.transforms.brightness, paper.transforms.contrast) == (0, 0)
    assert (paper.flow.n_blocks, paper.flow.hidden, paper.flow.clamp_alpha) == (8, 2048, 3)
    assert paper.flow.first_layer == "none"
    assert (paper.fit.epochs, paper.fit.images_per_batch * paper.fit.transforms_per_image) == (192, 96)
    assert (paper.fit.images_per_batch, paper.fit.transforms_per_image) == (24, 4)
    assert paper.fit.fresh_epochs >= paper.fit.epochs  # new rotations in every epoch
    assert (paper.fit.learning_rate, paper.fit.betas, paper.fit.eps) == (2e-4, (0.8, 0.8), 1e-4)
    assert (paper.fit.weight_decay, paper.fit.max_grad_norm) == (1e-5, None)
    assert paper.maps.sigma == 3


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_sound(name: str) -> None:
    recipe = preset(name)
    assert recipe.maps.n_rotations <= recipe.transforms.n_transforms
    assert recipe.fit.fresh_epochs <= recipe.fit.epochs
