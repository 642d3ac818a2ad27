"""Networks that were fitted on tiles: small fits of a second or two, so that scores and decisions mean something.

They are fitted once, by the package's own feature bank and fit on the device, and kept.
"""

from __future__ import annotations

from safetensors.torch import load_file, save_file

from benchmarks.gpu.images import Tiles
from benchmarks.gpu.precision import PreciseExtractor, Precision
from benchmarks.gpu.setting import Setting
from differnet_ray.config import Recipe
from differnet_ray.model.differnet import DifferNet
from differnet_ray.model.extractor import Extractor
from differnet_ray.model.fitting import FeatureBank, fit
from differnet_ray.model.flow import Flow
from differnet_ray.model.transforms import fixed_transforms


def quick_recipe(setting: Setting, name: str) -> Recipe:
    """The preset at its full width, fitted for 8 epochs where it is fitted at all."""
    recipe = setting.recipe(name)
    return recipe.override(epochs=8, fresh_epochs=8) if recipe.flow.n_blocks and not setting.small else recipe


def net(setting: Setting, tiles: Tiles, name: str, *, device: str | None = None) -> DifferNet:
    """A network of a preset, fitted on a part of the training tiles.

    Args:
        setting: of the run.
        tiles: at the preset's size.
        name: of the preset.
        device: to put it on, if not the setting's.
    """
    recipe, device = quick_recipe(setting, name), device or setting.device
    path = setting.work / f"flow-{name}.safetensors"
    if not path.is_file():
        _fit(setting, tiles, name, recipe)
    flow = Flow(recipe.extractor.n_features, recipe.flow, seed=None)
    flow.load_state_dict(load_file(path), assign=True)
    extractor = Extractor(recipe.extractor, setting.weights())
    found = DifferNet(extractor, flow, fixed_transforms(recipe.transforms), pooled=recipe.transforms.pooled)
    return found.requires_grad_(False).eval().to(device)


def set_precision(setting: Setting, model: DifferNet, precision: Precision, chunk: int) -> None:
    """Gives a network an extractor of that precision, with so many copies at a time."""
    model.extractor = PreciseExtractor(model.extractor.config, setting.weights(), precision).to(model.positions.device)
    model.extractor.chunk = chunk


def bank(setting: Setting, tiles: Tiles, recipe: Recipe, n: int) -> FeatureBank:
    """The package's feature bank of the first n training tiles, on the device."""
    extractor = Extractor(recipe.extractor, setting.weights()).to(setting.device)
    return FeatureBank(extractor, min(n, tiles.n_train), tiles.read, recipe.transforms, recipe.fit, memory=2**31)


def _fit(setting: Setting, tiles: Tiles, name: str, recipe: Recipe) -> None:
    flow = Flow(recipe.extractor.n_features, recipe.flow, seed=0).to(setting.device)
    for _ in fit(flow, bank(setting, tiles, recipe, setting.choose(128, 12)), recipe.fit):
        pass
    path = setting.work / f"flow-{name}.safetensors"
    save_file({key: tensor.cpu().contiguous() for key, tensor in flow.state_dict().items()}, path.with_suffix(".part"))
    path.with_suffix(".part").rename(path)
