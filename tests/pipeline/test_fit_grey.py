"""A camera of 12 bits in files of 16: the fit finds the range, says so, and what is scored later is scaled by it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from fits import fit_job
from PIL import Image

from differnet_ray.archives import fetch
from differnet_ray.archives.fetch import FetchImages
from differnet_ray.archives.images import DecodedImage, decode
from differnet_ray.archives.manifest import defects, list_images, select
from differnet_ray.config import ImageForm, Recipe, preset
from differnet_ray.errors import FitError
from differnet_ray.model.extractor import load_backbone_weights
from differnet_ray.model.metrics import auroc
from differnet_ray.pipeline import fit_category as module
from differnet_ray.pipeline.fit_category import fit_category
from differnet_ray.pipeline.fit_flows import Effort
from differnet_ray.pipeline.fit_state import FitProgress
from differnet_ray.pipeline.stages import ScoreImages
from differnet_ray.storage.locations import canonical
from differnet_ray.store.model_store import ModelStore
from differnet_ray.store.stored_model import StoredModel
from differnet_ray.tables import GREY_CLIPPED

N = 12
TWELVE_BITS = (0.0, 4095.0)
Values = npt.NDArray[np.uint16]
Fit = Callable[..., StoredModel]


def part(rng: np.random.Generator, *, defect: bool = False) -> Values:
    """A plate of about 1,000 counts beside a ramp over all 12 bits; a defect is 24 pixels of stripes of 60 counts."""
    counts = 1000 + rng.normal(0, 4, size=(128, 96))
    counts[96:] = np.linspace(0, 4095, 32 * 96).reshape(32, 96) + rng.normal(0, 5, size=(32, 96))
    if defect:
        row, column = rng.integers(16, 56, size=2)
        counts[row : row + 24, column : column + 24] += 60 * (np.arange(24) // 6 % 2)
    counts[127] = 4095
    return counts.clip(0, 4095).astype(np.uint16)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve good images to fit on and eight good and eight defective ones, every other a TIFF."""
    rng = np.random.default_rng(0)
    for folder, n in {"train/good": N, "test/good": 8, "test/dent": 8}.items():
        (tmp_path / "data" / "lid" / folder).mkdir(parents=True)
        for i in range(n):
            name = f"{i:02d}.{'png' if i % 2 else 'tiff'}"
            Image.fromarray(part(rng, defect=folder == "test/dent")).save(tmp_path / "data" / "lid" / folder / name)
    return tmp_path / "data"


def rewritten(data: Path, change: Callable[[Values], npt.NDArray[np.generic]], **options: object) -> None:
    """Writes every training image anew, as a TIFF."""
    for path in sorted((data / "lid" / "train" / "good").iterdir()):
        with Image.open(path) as image:
            values = np.asarray(image).astype(np.uint16)
        path.unlink()
        Image.fromarray(change(values)).save(path.with_suffix(".tiff"), **options)


@pytest.fixture
def fit(data: Path, tmp_path: Path, tiny_recipe: Recipe) -> Fit:
    """Fits the images as they are now; returns the model."""
    weights: Mapping[str, torch.Tensor] = load_backbone_weights("random")[0]

    def fit(recipe: Recipe = tiny_recipe, on_progress: Callable[[FitProgress], None] = lambda p: None) -> StoredModel:
        job = fit_job(data, tmp_path, recipe, weights)
        result = fit_category(job, "lid", "cpu", Effort(checkpoint_seconds=0, on_progress=on_progress))
        model = ModelStore(job.models).load("lid", result.version)
        assert result.notes == model.lineage.notes
        return model

    return fit


def scored(data: Path, model: StoredModel) -> tuple[list[float], list[str | None], float]:
    """The scores of the test images by the stages of `score`, their shares of clipped pixels, and the AUROC."""
    rows = select(list_images([str(data)]), split="test").table
    score = ScoreImages(
        models=canonical(str(data.parent / "models")),
        versions={"lid": model.version},
        n_transforms=None,
        maps="none",
        dt=date(2026, 1, 31),
        run_id="one",
        device="cpu",
    )
    found = score(FetchImages({"lid": model.recipe.image_form})(rows))
    scores = found["anomaly_score"].to_pylist()
    clipped = [dict(attributes).get(GREY_CLIPPED) for attributes in found["attributes"].to_pylist()]
    return scores, clipped, auroc(np.array(scores), np.array([kind != "good" for kind in defects(rows)]))


@pytest.fixture
def levels(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many grey values each image has when it is resized; images are decoded in this process."""

    class Here:
        def decode(self, data: bytes, form: ImageForm) -> DecodedImage:
            return decode(data, size=form.size, grey_range=form.grey_range)

    resize, found = Image.Image.resize, list[int]()

    def counting(image: Image.Image, *arguments: object) -> Image.Image:
        found.append(len(np.unique(np.asarray(image))))
        return resize(image, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(fetch, "DECODERS", Here())
    monkeypatch.setattr(Image.Image, "resize", counting)
    return found


def test_all_values_of_12_bits_reach_the_resize_in_fit_and_in_score(data: Path, fit: Fit, levels: list[int]) -> None:
    rewritten(data, lambda values: np.arange(128 * 96).reshape(128, 96).astype(np.uint16) % 4096)
    model = fit()
    assert len(levels) > 2 * N
    assert min(levels[:N]) >= 4000
    for path in (data / "lid" / "test").rglob("*.*"):
        Image.fromarray((np.arange(128 * 96) % 4096).reshape(128, 96).astype(np.uint16)).save(path)
    levels.clear()
    scored(data, model)
    assert len(levels) == 16
    assert min(levels) >= 4000


def test_the_range_that_a_fit_finds_is_in_its_record_and_people_are_told(data: Path, fit: Fit, tmp_path: Path) -> None:
    model = fit()
    assert model.recipe.images.grey_range == TWELVE_BITS
    folder = tmp_path / "models" / "lid" / model.version
    assert json.loads((folder / "model.json").read_text())["recipe"]["images"] == {"grey_range": [0, 4095]}
    (note,) = model.lineage.notes
    assert "state no range of grey values; the largest value of the 12 with more than 8 bits is 4095, so 12 bits" in note
    card = (folder / "card.md").read_text()
    assert "| grey values | 0 is black, 4095 is white |" in card
    assert f"- {note}" in card


def test_a_faint_defect_that_17_levels_lose_is_found_in_12_bits(data: Path, fit: Fit) -> None:
    pooled = preset("demo").override(image_size=64, n_scales=1)
    found, lost = fit(pooled), fit(pooled.override(grey_range=(0.0, 65535.0)))
    areas = {model.version: scored(data, model)[2] for model in (found, lost)}
    assert areas[found.version] >= 0.95
    assert areas[lost.version] <= 0.75
    for model in (found, lost):  # the fit saw its labelled test images as scoring does
        assert model.lineage.test is not None
        assert model.lineage.test["auroc"] == areas[model.version]


def test_other_values_at_scoring_clip_and_are_counted(data: Path, fit: Fit) -> None:
    model = fit()
    before, clipped, _ = scored(data, model)
    assert clipped == [None] * 16
    path = data / "lid" / "test" / "good" / "03.png"
    with Image.open(path) as image:
        values = np.array(image)
    values[127] = 40_000  # it was 4095
    Image.fromarray(values).save(path)
    after, clipped, _ = scored(data, model)
    assert after == before
    assert sorted(filter(None, clipped)) == [f"{1 / 128:.2g}"]


def test_the_range_of_the_model_holds_whatever_another_file_says(data: Path, fit: Fit) -> None:
    model = fit()
    before, _, _ = scored(data, model)
    for path in (data / "lid" / "test").rglob("*.tiff"):
        with Image.open(path) as image:
            values = np.asarray(image).copy()
        Image.fromarray(values).save(path, tiffinfo={281: 60_000})
    assert scored(data, model)[0] == before


def test_what_all_files_state_is_taken_without_a_note(data: Path, fit: Fit) -> None:
    rewritten(data, lambda values: values, tiffinfo={281: 5000})
    model = fit()
    assert (model.recipe.images.grey_range, model.lineage.notes) == ((0, 5000), ())


def test_the_option_goes_before_all_else(data: Path, fit: Fit, tiny_recipe: Recipe) -> None:
    rewritten(data, lambda values: values, tiffinfo={281: 5000})
    model = fit(tiny_recipe.override(grey_range=(100.0, 3000.0)))
    assert model.recipe.images.grey_range == (100, 3000)
    assert model.lineage.notes == ("12 of 12 images have grey values outside of 100 to 3000, which are clipped",)


@pytest.mark.parametrize(
    ("change", "high"),
    [
        pytest.param(lambda values: values.astype(np.int32) * 100, 2**19 - 1, id="32 bits"),
        pytest.param(lambda values: values.astype(np.float32), 4095, id="floats over 1"),
        pytest.param(lambda values: values.astype(np.float32) / 4095, 1, id="floats up to 1"),
        pytest.param(lambda values: values * 16, 65535, id="all 16 bits"),
    ],
)
def test_other_kinds_of_grey_come_through_the_same_way(
    data: Path, fit: Fit, change: Callable[[Values], npt.NDArray[np.generic]], high: float
) -> None:
    rewritten(data, change)
    model = fit()
    assert (model.lineage.n_fitted, model.lineage.skipped) == (10, {})
    assert model.recipe.images.grey_range == (0, high)
    assert bool(model.lineage.notes) == (high not in (1, 65535))


def test_images_of_8_bits_have_no_range(data: Path, fit: Fit) -> None:
    rewritten(data, lambda values: (values // 16).astype(np.uint8))
    model = fit()
    assert (model.recipe.images.grey_range, model.lineage.notes) == (None, ())


def test_negative_values_need_the_option(data: Path, fit: Fit, tiny_recipe: Recipe) -> None:
    path = data / "lid" / "train" / "good" / "00.tiff"
    Image.fromarray(part(np.random.default_rng(1)).astype(np.float32) - 7).save(path)
    (reason,) = fit().lineage.skipped.values()
    assert reason == "unsupported: grey values run from -7 to 4088; expected 0 or more, or fit with --grey-range LOW:HIGH"
    assert fit(tiny_recipe.override(grey_range=(-7.0, 4095.0))).lineage.skipped == {}


def test_floats_of_unit_range_beside_integers_are_refused_by_name(data: Path, fit: Fit) -> None:
    Image.fromarray(np.full((9, 9), 0.5, np.float32)).save(data / "lid" / "train" / "good" / "00.tiff")
    with pytest.raises(FitError, match="no common range"):
        fit()


def test_a_fit_that_goes_on_keeps_the_range_and_the_note(data: Path, fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        """What no handler of errors catches."""

    def kill(progress: FitProgress) -> None:
        if progress.phase == "epochs":
            raise Killed

    with pytest.raises(Killed):
        fit(on_progress=kill)
    monkeypatch.delattr(module, "look_at_images")  # not again
    model = fit()
    assert model.recipe.images.grey_range == TWELVE_BITS
    assert len(model.lineage.notes) == 1


def test_a_model_without_a_range_scales_by_the_type_whatever_the_file_says(data: Path) -> None:
    path = data / "lid" / "test" / "good" / "00.tiff"
    with Image.open(path) as image:
        values = np.asarray(image).copy()
    Image.fromarray(values).save(path, tiffinfo={281: 4095})
    old = Recipe.from_dict({"extractor": {"image_size": 256}})  # as in records from before there were ranges
    rows = select(list_images([str(data)]), split="test").table
    fetched = FetchImages({"lid": old.image_form})(rows)
    assert max(max(pixels) for pixels in fetched["pixels"].to_pylist()) == 16
