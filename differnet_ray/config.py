"""The values that a fit or a scoring run is made from: frozen dataclasses, one per concern, standard library only.

Symbols as in `docs/method.md`: T transforms, S scales, D features, H x W pixels, alpha the clamp of eq. 2.
Each class checks its ranges when it is made and raises `ConfigError` naming the key, the value and what is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any

from differnet_ray.errors import ConfigError, require

MAP_KINDS = ("activation", "gradient")
FIRST_LAYERS = ("none", "standardize", "whiten", "whiten_covariance")
POSE_TRANSFORMS = {"any": 1024, "quarter": 4, "fixed": 4}  # the most that pay: docs/benchmarks.md
POSES = tuple(POSE_TRANSFORMS)
AUTO = "auto"  # the pose of a recipe whose pose each category decides by its good images before it is fitted
AUTO_GROUPS, NO_GROUPS = "auto", "none"
GROUP_BY = "auto (similar images), none, an attribute of the images, or a regular expression with a group"
ALEXNET, TIMM = "alexnet", "timm:"  # the paper's network, and what begins the name of one of timm's
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALLEST_SCALE = 63  # pixels: the smallest side that survives AlexNet's stem and its three poolings
OLDER: dict[str, dict[str, Any]] = {"maps": {"map_kind": "gradient"}, "calibration": {"group_by": NO_GROUPS}}
"""What held before recipes could say otherwise, where that is not the default of today."""
GreyRange = tuple[float, float]  # the grey values that are black and white


@dataclass(frozen=True)
class ImageForm:
    """What a model wants of an image file.

    Attributes:
        size: H, pixels a side after resizing.
        grey_range: as of `ImageConfig`.
    """

    size: int
    grey_range: GreyRange | None = None


@dataclass(frozen=True)
class ImageConfig:
    """How grey of more than 8 bits becomes 8 bits; other images are what they are."""

    grey_range: GreyRange | None = None  # a fit finds it where none is given; None in a model: that of each file's type

    def __post_init__(self) -> None:
        if self.grey_range is not None:
            ordered = len(self.grey_range) == 2 and -math.inf < self.grey_range[0] < self.grey_range[1] < math.inf
            require(ordered, "grey_range", self.grey_range, "two finite numbers, LOW < HIGH, such as (0, 4095)")


@dataclass(frozen=True)
class ExtractorConfig:
    """The frozen feature extractor: a network at S scales of an H x H image.

    What belongs to a network of timm's, all but its name and layers, is found by `model.extractor.with_network` and kept
    here, so that another version of timm cannot change it.
    """

    image_size: int = 448  # H: pixels a side after resizing
    n_scales: int = 3  # S: scale s sees the image at H / 2^s pixels
    network: str = ALEXNET  # or timm:NAME
    layers: tuple[int, ...] = ()  # of a network of timm's: which of its feature maps, the finest is 0
    channels: tuple[int, ...] = (256,)  # of each feature map
    mean: tuple[float, ...] = IMAGENET_MEAN  # of the network's training images, in [0, 1]
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        require(self.n_scales in range(1, 6), "n_scales", self.n_scales, "1 to 5")
        smallest, step = SMALLEST_SCALE * 2 ** (self.n_scales - 1), 2 ** (self.n_scales - 1)
        require(
            smallest <= self.image_size <= 4096 and self.image_size % step == 0,
            "image_size",
            self.image_size,
            f"{smallest} to 4096 and a multiple of {step}, for n_scales = {self.n_scales}",
        )
        of_timm = self.network.startswith(TIMM)
        require(of_timm or self.network == ALEXNET, "network", self.network, f"{ALEXNET}, or any {TIMM}NAME")
        ordered = all(a < b for a, b in pairwise((-1, *self.layers)))
        require(ordered and bool(self.layers) == of_timm, "layers", self.layers, f"rising numbers from 0 on, of {TIMM}NAME")
        n = len(self.layers) or 1
        require(len(self.channels) == n and min(self.channels) > 0, "channels", self.channels, f"{n} positive numbers")
        for key in ("mean", "std"):
            require(len(getattr(self, key)) == 3, key, getattr(self, key), "3 numbers")
        require(min(self.std) > 0, "std", self.std, "positive numbers")

    @property
    def n_features(self) -> int:
        """D: the features of one transformed image."""
        return sum(self.channels) * self.n_scales


@dataclass(frozen=True)
class TransformConfig:
    """The transforms: a fixed set at scoring, random ones of the same range in fitting.

    The pose says how the parts lie. `any`: rotations of the whole circle. `quarter`: the four quarter turns, which have no
    black corners. `fixed`: upright, and small rotations.
    """

    n_transforms: int = 64  # T: size of the fixed set
    pose: str = "any"  # one of POSES, or AUTO
    brightness: float = 0.0  # a: factors lie in [1 - a, 1 + a]
    contrast: float = 0.0
    pooled: bool = False  # features are averaged over the fixed set before the flow, in fitting and at scoring

    def __post_init__(self) -> None:
        require(isinstance(self.pooled, bool), "pooled", self.pooled, "true or false")
        require(self.pose in (*POSES, AUTO), "pose", self.pose, ", ".join((*POSES, AUTO)))
        require(1 <= self.n_transforms <= 1024, "n_transforms", self.n_transforms, "1 to 1024")
        require(0 <= self.brightness < 1, "brightness", self.brightness, "0 <= brightness < 1")
        require(0 <= self.contrast < 1, "contrast", self.contrast, "0 <= contrast < 1")
        repeats = self.pose == "quarter" and not self.brightness and not self.contrast
        require(
            self.n_transforms <= 4 or not repeats,
            "n_transforms",
            self.n_transforms,
            "1 to 4 for pose = 'quarter': there are four quarter turns, and neither brightness nor contrast varies",
        )

    def posed(self, pose: str) -> TransformConfig:
        """The same for another pose, with no more transforms than pay there."""
        require(pose in (*POSES, AUTO), "pose", pose, ", ".join((*POSES, AUTO)))
        return replace(self, pose=pose, n_transforms=min(self.n_transforms, POSE_TRANSFORMS.get(pose, self.n_transforms)))


@dataclass(frozen=True)
class FlowConfig:
    """The normalizing flow: K coupling blocks of two s/t networks with three hidden layers each."""

    n_blocks: int = 8  # K; 0: the fixed layers are all of it, and z is standard normal if y^power is normal
    hidden: int = 2048  # width of the hidden layers
    clamp_alpha: float = 3.0  # alpha of eq. 2
    power: float = 1.0  # features y are raised to it before all else: those of a ReLU network are skewed
    first_layer: str = "none"  # a fixed affine layer in front, from the training features: one of FIRST_LAYERS
    shrinkage: float = 0.02  # of the covariance that `whiten` and `whiten_covariance` make the identity

    def n_parameters(self, n_features: int) -> int:
        """Weights and biases of the 2 K networks, for D features."""
        half, hidden = n_features // 2, self.hidden
        return 2 * self.n_blocks * ((half + 1) * hidden + 2 * (hidden + 1) * hidden + (hidden + 1) * n_features)

    def __post_init__(self) -> None:
        require(0 <= self.n_blocks <= 64, "n_blocks", self.n_blocks, "0 to 64")
        require(1 <= self.hidden <= 16384, "hidden", self.hidden, "1 to 16384")
        require(self.clamp_alpha > 0, "clamp_alpha", self.clamp_alpha, "a positive number")
        require(0 < self.power <= 1, "power", self.power, "0 < power <= 1")
        require(0 < self.shrinkage < 1, "shrinkage", self.shrinkage, "0 < shrinkage < 1")
        allowed = FIRST_LAYERS if self.n_blocks else FIRST_LAYERS[1:]
        require(self.first_layer in allowed, "first_layer", self.first_layer, ", ".join(allowed))


@dataclass(frozen=True)
class FitConfig:
    """How the flow is fitted: Adam on eq. 4 over random transforms of the training images."""

    epochs: int = 192
    images_per_batch: int = 24
    transforms_per_image: int = 4  # per image and epoch
    fresh_epochs: int = 192  # epochs whose random transforms are new; after these the feature bank repeats
    learning_rate: float = 2e-4
    betas: tuple[float, float] = (0.8, 0.8)
    eps: float = 1e-4
    weight_decay: float = 1e-5
    max_grad_norm: float | None = None  # clips the norm of the gradient where set
    patience: int | None = None  # epochs without a lower loss of the validation images after which a fit stops; None: never
    validation_fraction: float = 0.1  # share of the images to fit on that validate instead, where there is a patience
    seed: int = 0

    def __post_init__(self) -> None:
        for key in ("epochs", "images_per_batch", "transforms_per_image", "fresh_epochs"):
            require(1 <= getattr(self, key) <= 1_000_000, key, getattr(self, key), "1 to 1000000")
        for key in ("learning_rate", "eps"):
            require(getattr(self, key) > 0, key, getattr(self, key), "a positive number")
        require(len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), "betas", self.betas, "two numbers, 0 <= beta < 1")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "zero or more")
        require(
            self.max_grad_norm is None or self.max_grad_norm > 0,
            "max_grad_norm",
            self.max_grad_norm,
            "positive or none",
        )
        require(self.patience is None or self.patience >= 1, "patience", self.patience, "1 or more, or none")
        require(
            0 < self.validation_fraction < 1, "validation_fraction", self.validation_fraction, "0 < validation_fraction < 1"
        )
        require(0 <= self.seed < 2**63, "seed", self.seed, "0 <= seed < 2^63")


@dataclass(frozen=True)
class CalibrationConfig:
    """How thresholds are found on defect-free images that the flow has not seen: held out, or cross-fitted where few."""

    group_by: str = AUTO_GROUPS  # images that belong together, see GROUP_BY: whole groups are held out and cross-fitted
    holdout_fraction: float = 0.2  # share of the good images that the flow never sees
    cross_fit_below: int = 50  # fewer groups are cross-fitted: all images calibrate, at the cost of folds + 1 fits
    folds: int = 5  # of cross-fitting; 0: always hold out
    target_fpr: float = 0.01  # share of good images at or above the threshold
    review_fpr: float = 0.05  # share of good images at or above the review threshold

    def __post_init__(self) -> None:
        require(isinstance(self.group_by, str) and bool(self.group_by), "group_by", self.group_by, GROUP_BY)
        require(0 < self.holdout_fraction < 1, "holdout_fraction", self.holdout_fraction, "0 < fraction < 1")
        require(0 <= self.cross_fit_below <= 1_000_000, "cross_fit_below", self.cross_fit_below, "0 to 1000000")
        require(self.folds == 0 or 2 <= self.folds <= 100, "folds", self.folds, "0 for never, or 2 to 100")
        require(0 < self.target_fpr < 1, "target_fpr", self.target_fpr, "0 < target_fpr < 1")
        require(self.target_fpr <= self.review_fpr < 1, "review_fpr", self.review_fpr, "target_fpr <= review_fpr < 1")


@dataclass(frozen=True)
class MapConfig:
    """Maps of where a score comes from: of the activations, over all transforms of the score, or of the gradient, eq. 7."""

    map_kind: str = "activation"  # one of MAP_KINDS
    n_rotations: int = 8  # a gradient map is averaged over the rotations of the first so many entries of the transform set
    sigma: float = 3.0  # of the Gaussian blur of a gradient, in pixels of the resized image
    downsample: int = 4  # a stored map has H / downsample pixels a side

    def __post_init__(self) -> None:
        require(self.map_kind in MAP_KINDS, "map_kind", self.map_kind, " or ".join(MAP_KINDS))
        require(1 <= self.n_rotations <= 1024, "n_rotations", self.n_rotations, "1 to 1024")
        require(self.sigma > 0, "sigma", self.sigma, "a positive number of pixels")
        require(self.downsample in (1, 2, 4, 8), "downsample", self.downsample, "1, 2, 4 or 8")


@dataclass(frozen=True)
class Recipe:
    """All that decides what a fitted model is, apart from the images and the backbone weights."""

    extractor: ExtractorConfig = field(default_factory=ExtractorConfig)
    transforms: TransformConfig = field(default_factory=TransformConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    maps: MapConfig = field(default_factory=MapConfig)
    images: ImageConfig = field(default_factory=ImageConfig)

    def __post_init__(self) -> None:
        require(
            self.extractor.image_size % self.maps.downsample == 0,
            "maps.downsample",
            self.maps.downsample,
            f"a divisor of image_size = {self.extractor.image_size}",
        )

    @property
    def image_form(self) -> ImageForm:
        """What its model wants of an image file."""
        return ImageForm(self.extractor.image_size, self.images.grey_range)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values, for `model.json`."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Mapping[str, Any]]) -> Recipe:
        """The inverse of `to_dict`, also after a trip through JSON.

        What a section of an older recipe does not say is as in `OLDER`.

        Raises:
            ConfigError: a section or key is unknown, or a value is out of its range.
        """
        sections: dict[str, Any] = {
            "extractor": ExtractorConfig,
            "transforms": TransformConfig,
            "flow": FlowConfig,
            "fit": FitConfig,
            "calibration": CalibrationConfig,
            "maps": MapConfig,
            "images": ImageConfig,
        }
        parts: dict[str, Any] = {}
        for name, entries in values.items():
            require(name in sections, "recipe section", name, ", ".join(sections))
            known, entries = sections[name].__dataclass_fields__, {**OLDER.get(name, {}), **entries}
            for key in entries:
                require(key in known, f"{name} key", key, ", ".join(known))
            try:
                parts[name] = sections[name](**{k: tuple(v) if isinstance(v, list) else v for k, v in entries.items()})
            except TypeError as error:  # a text or a null where a number is compared
                raise ConfigError(f"{name} = {dict(entries)!r} is not allowed: {error}") from error
        return Recipe(**parts)

    def override(self, **changes: Any) -> Recipe:
        """A copy with single values replaced, each named by its key (`epochs`, `hidden`, ...); `None` changes nothing.

        A pose without `n_transforms` comes with no more transforms than pay for it.

        Raises:
            ConfigError: a key that no section has, or a value out of its range.
        """
        wanted = {key: value for key, value in changes.items() if value is not None}
        if "pose" in wanted and "n_transforms" not in wanted:
            wanted["n_transforms"] = self.transforms.posed(wanted["pose"]).n_transforms
        sections = {}
        for name in self.__dataclass_fields__:
            section = getattr(self, name)
            own = {key: wanted.pop(key) for key in section.__dataclass_fields__ if key in wanted}
            sections[name] = replace(section, **own)
        require(not wanted, "recipe key", ", ".join(wanted), "a key of one of the recipe's sections")
        return Recipe(**sections)


# `paper`: the published recipe (batch 24 x 4 = 96, 192 epochs, fresh rotations in every epoch).
# `pooled`: the sharpest on parts never seen for its cost, on two CPU cores as well: four transforms where parts always lie the
#   same way. It averages features before the density: docs/method.md says why, docs/benchmarks.md how much that brings.
# `demo`: that with smaller images, for a few minutes on two CPU cores.
_POOLED = Recipe(
    transforms=TransformConfig(n_transforms=32, pose=AUTO, pooled=True),
    flow=FlowConfig(n_blocks=0, power=0.25, first_layer="whiten_covariance", shrinkage=0.1),
    fit=FitConfig(epochs=1, fresh_epochs=1, transforms_per_image=1),
    calibration=CalibrationConfig(cross_fit_below=500, folds=10),  # a fit takes a second
)
PRESETS: dict[str, Recipe] = {
    "paper": Recipe(),
    "pooled": _POOLED,
    "demo": _POOLED.override(
        image_size=256,
        n_transforms=8,
        n_rotations=4,
        holdout_fraction=0.35,
        folds=0,
        target_fpr=0.05,
        review_fpr=0.1,
    ),
}


def preset(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ConfigError: there is none.
    """
    require(name in PRESETS, "preset", name, ", ".join(PRESETS))
    return PRESETS[name]
