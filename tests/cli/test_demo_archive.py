"""The demo archive: reproducible, laid out as promised, and its masks mark the defect and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from differnet_ray.cli.demo.archive import CATEGORIES, KINDS, _draw_image, make_archive
from differnet_ray.errors import ConfigError

ALL_KINDS = [(category, kind) for category in CATEGORIES for kind in KINDS[category]]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "archive"
    make_archive(folder, seed=3, n_train=2, n_test_good=1, n_test_defect=1)
    return folder


def test_layout_is_that_of_mvtec_ad(archive: Path) -> None:
    expected = set()
    for category in CATEGORIES:
        expected |= {f"{category}/train/good/000.jpg", f"{category}/train/good/001.jpg", f"{category}/test/good/000.jpg"}
        for kind in KINDS[category]:
            expected |= {f"{category}/test/{kind}/000.jpg", f"{category}/ground_truth/{kind}/000_mask.png"}
    assert set(contents(archive)) == expected
    assert len(CATEGORIES) == 3
    assert all(len(KINDS[category]) == 3 for category in CATEGORIES)


def test_same_seed_same_bytes_and_a_larger_archive_contains_the_smaller(archive: Path, tmp_path: Path) -> None:
    make_archive(tmp_path / "small", seed=3, n_train=1, n_test_good=1, n_test_defect=1)
    small, large = contents(tmp_path / "small"), contents(archive)
    assert small == {name: large[name] for name in small}


def test_every_image_is_different_also_from_that_of_another_seed(archive: Path, tmp_path: Path) -> None:
    make_archive(tmp_path, seed=4, n_train=1, n_test_good=1, n_test_defect=1)
    images = [data for folder in (archive, tmp_path) for name, data in contents(folder).items() if name.endswith(".jpg")]
    assert len(set(images)) == len(images)


def test_images_are_rgb_jpeg_of_one_size_a_category(archive: Path) -> None:
    sizes = {}
    for category in CATEGORIES:
        found = set()
        for path in (archive / category).rglob("*.jpg"):
            with Image.open(path) as image:
                image.load()
                assert (image.format, image.mode) == ("JPEG", "RGB")
                found.add(image.size)
        assert len(found) == 1
        sizes[category] = found.pop()
        assert all(480 <= side <= 720 for side in sizes[category])
    assert len(set(sizes.values())) == len(CATEGORIES)


@pytest.mark.parametrize(("category", "kind"), ALL_KINDS)
def test_mask_has_the_size_of_its_image_and_marks_a_small_part_of_it(archive: Path, category: str, kind: str) -> None:
    with Image.open(archive / category / "ground_truth" / kind / "000_mask.png") as mask:
        values = np.asarray(mask)
        assert mask.mode == "L"
    with Image.open(archive / category / "test" / kind / "000.jpg") as image:
        assert image.size == (values.shape[1], values.shape[0])
    assert set(np.unique(values)) == {0, 255}
    assert 0.001 < (values == 255).mean() < 0.15


@pytest.mark.parametrize(("category", "kind"), ALL_KINDS)
def test_image_differs_from_its_defect_free_twin_in_the_mask_and_not_away_from_it(category: str, kind: str) -> None:
    good, nothing = _draw_image(category, "good", [5])
    bad, mask = _draw_image(category, kind, [5])
    assert not nothing.any()
    change = np.abs(np.asarray(bad, np.int16) - np.asarray(good, np.int16)).max(axis=-1)
    assert np.mean(change[mask] > 8) > 0.6  # of the marked pixels look clearly different
    reach = ndimage.binary_dilation(mask, iterations=12)  # lens blur, and the soft shadow of a part
    assert change[~reach].max() <= 3


@pytest.mark.parametrize("name", ["seed", "n_train", "n_test_good", "n_test_defect"])
def test_a_negative_number_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{name}=-1"):
        make_archive(tmp_path, **{name: -1})
    assert not contents(tmp_path)
