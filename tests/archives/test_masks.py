"""Ground-truth masks are found where the data sets of the field have them, and mark what is not black."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from differnet_ray.archives.manifest import list_images, select
from differnet_ray.archives.masks import has_masks, mask_uris, read_mask
from differnet_ray.errors import ImageError
from differnet_ray.storage.locations import canonical


def write(path: Path, values: list[list[int]]) -> None:
    """Writes a grey image of these values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, dtype=np.uint8)).save(path)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("screw/test/scratch/007.png", "screw/ground_truth/scratch/007_mask.png"),  # MVTec AD
        ("tubes/test/anomalous/041.png", "tubes/ground_truth/anomalous/041_mask.png"),  # MPDD
        ("01/test/ko/0003.bmp", "01/ground_truth/ko/0003.png"),  # BTAD, product 1
        ("03/test/ko/0003.bmp", "03/ground_truth/ko/0003.bmp"),  # BTAD, product 3
        ("pcb1/test/bad/000.JPG", "pcb1/ground_truth/bad/000.png"),  # VisA, split by its own script
        ("pcb1/Data/Images/Anomaly/000.JPG", "pcb1/Data/Masks/Anomaly/000.png"),  # VisA as it is downloaded
        ("x.y/test/a.b/7", "x.y/ground_truth/a.b/7.png"),
    ],
)
def test_the_mask_of_an_image_is_found_in_the_layouts_of_the_field(image: str, mask: str, tmp_path: Path) -> None:
    uris = mask_uris(canonical(str(tmp_path / image)))
    assert canonical(str(tmp_path / mask)) in uris
    assert not has_masks([canonical(str(tmp_path / image))])
    write(tmp_path / mask, [[0, 1], [3, 0]])  # VisA numbers its kinds of defects from 1
    assert has_masks([canonical(str(tmp_path / image))])
    assert read_mask(uris, 2).tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize("image", ["7.png", "screw/train/good/7.png", "b/7.png"])
def test_other_images_have_no_place_for_a_mask(image: str, tmp_path: Path) -> None:
    assert mask_uris(canonical(str(tmp_path / image))) == []


def test_of_several_masks_that_of_mvtec_ad_is_read(tmp_path: Path) -> None:
    uris = mask_uris(canonical(str(tmp_path / "screw/test/dent/7.png")))
    write(tmp_path / "screw/ground_truth/dent/7.png", [[1]])
    assert read_mask(uris, 1).all()
    write(tmp_path / "screw/ground_truth/dent/7_mask.png", [[0]])
    assert not read_mask(uris, 1).any()


def test_a_mask_that_is_not_there_is_named_with_the_names_that_it_may_have(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"ground_truth/dent/7_mask.png: no such file, nor 7.png, 7.bmp, 7_mask.bmp"):
        read_mask(mask_uris(canonical(str(tmp_path / "screw/test/dent/7.png"))), 4)


def test_masks_of_defects_are_looked_for_by_their_folders(factory: Path) -> None:
    uris = select(list_images([str(factory)]), split="test").table["uri"].to_pylist()
    assert has_masks(uris)
    assert not has_masks([uri for uri in uris if "/good/" in uri])
    assert not has_masks([])


@pytest.mark.parametrize(
    "pixels",
    [
        Image.fromarray(np.array([[0, 1], [255, 0]], dtype=np.uint8)),
        Image.fromarray(np.array([[0, 1], [65535, 0]], dtype=np.uint16)),
        Image.fromarray(np.array([[False, True], [True, False]])),
        Image.fromarray(np.array([[[0, 0, 0], [200, 0, 0]], [[0, 9, 0], [0, 0, 0]]], dtype=np.uint8)),
        Image.fromarray(np.array([[0, 200], [255, 0]], dtype=np.uint8)).convert("P"),
    ],
    ids=lambda image: image.mode,
)
def test_a_mask_of_any_mode_marks_what_is_not_black(pixels: Image.Image, tmp_path: Path) -> None:
    pixels.save(tmp_path / "mask.png")
    mask = read_mask([canonical(str(tmp_path / "mask.png"))], 4)
    assert mask.dtype == np.bool_
    assert mask.tolist() == np.kron([[0, 1], [1, 0]], np.ones((2, 2))).astype(bool).tolist()


def test_a_mask_that_is_no_image_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"mask.png: the mask is damaged or no image"):
        read_mask([canonical(str(tmp_path / "mask.png"))], 4)
