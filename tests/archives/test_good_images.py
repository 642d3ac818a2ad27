"""Good images are those that their folder or label calls good, in the words of any data set, wherever they are listed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from archive_files import images, pack

from differnet_ray.archives.manifest import Listing, defects, list_images, select

Plant = Callable[..., Path]
BTAD = (
    "01/train/ok/0000.bmp",
    "01/train/ok/0001.bmp",
    "01/test/ok/0000.bmp",
    "01/test/ko/0000.bmp",
    "01/ground_truth/ko/0000.png",
)


def split(listing: Listing) -> tuple[int, dict[str, int]]:
    """Returns how many images there are to fit on, and the kinds of those to test on."""
    return select(listing, split="train", defect="good").table.num_rows, Counter(defects(select(listing, split="test").table))


def test_btad_is_read_as_it_is_downloaded(plant: Plant) -> None:
    listing = list_images([str(plant(*BTAD))])
    assert listing.categories == ["01"]
    assert split(listing) == (2, {"good": 1, "ko": 1})
    assert listing.skipped == {"mask": 1}


def test_btad_in_a_zip_is_the_same(tmp_path: Path) -> None:
    assert split(list_images([str(pack(tmp_path / "btad.zip", images(BTAD)))])) == (2, {"good": 1, "ko": 1})


@pytest.mark.parametrize("name", ["good", "ok", "normal", "OK", "Good", "GOOD", "Normal"])
def test_the_usual_words_for_good_count_in_any_case(name: str, plant: Plant, tmp_path: Path) -> None:
    assert split(list_images([str(plant(f"a/train/{name}/1.png", f"a/test/{name}/1.png"))])) == (1, {"good": 1})
    (tmp_path / "m.csv").write_text(f"uri,category,split,defect\n1.png,a,train,{name}\n2.png,a,test,{name}\n")
    assert split(list_images([str(tmp_path / "m.csv")])) == (1, {"good": 1})


@pytest.mark.parametrize("name", ["ko", "bad", "not ok", "abnormal", "goods", "NG"])
def test_other_words_are_defects_and_stay_as_they_are(name: str, plant: Plant) -> None:
    assert split(list_images([str(plant(f"a/train/{name}/1.png", f"a/test/{name}/1.png"))])) == (0, {name: 1})


def test_another_word_may_be_given(plant: Plant) -> None:
    root = str(plant("a/train/Gut/1.png", "a/test/gut/1.png", "a/test/ok/1.png", "a/test/riss/1.png"))
    assert split(list_images([root])) == (0, {"gut": 1, "good": 1, "riss": 1})
    assert split(list_images([root], good=["GUT"])) == (1, {"good": 2, "riss": 1})


def test_the_words_change_the_digest_only_where_they_change_a_label(plant: Plant) -> None:
    root = str(plant("a/train/gut/1.png"))
    digest, same, other = (list_images([root], good=good).digest() for good in ([], ["iO"], ["gut"]))
    assert digest == same != other


def test_masks_of_visa_are_no_images(plant: Plant) -> None:
    root = plant(
        "pcb1/Data/Images/Normal/0000.JPG",
        "pcb1/Data/Images/Anomaly/000.JPG",
        "pcb1/Data/Masks/Anomaly/000.png",
        "Masks/Anomaly/000.png",
    )
    listing = list_images([str(root)], path_pattern="{category}/{_}/{defect}/{name}")
    assert listing.skipped == {"mask": 1}
    assert Counter(defects(listing.table)) == {"good": 1, "Anomaly": 2}
