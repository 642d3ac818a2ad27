"""Parts of a listing: by category, split and defect, drawn by a seed, or all categories as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from archive_files import listed

from differnet_ray.archives.manifest import group_keys, sample, select, together
from differnet_ray.errors import ConfigError
from differnet_ray.tables import MANIFEST

Plant = Callable[..., Path]
MVTEC_AD = (
    "screw/train/good/000.png",
    "screw/train/good/001.png",
    "screw/test/good/000.png",
    "screw/test/scratch_head/000.png",
    "metal_nut/test/bent/000.png",
)


@pytest.mark.parametrize(
    ("wanted", "n_rows"),
    [
        ({}, 5),
        ({"categories": ["screw"]}, 4),
        ({"categories": ["screw", "metal_nut"]}, 5),
        ({"categories": ["washer"]}, 0),
        ({"split": "train"}, 2),
        ({"split": "test", "defect": "good"}, 1),
        ({"defect": "bent", "categories": ["screw"]}, 0),
    ],
)
def test_select_keeps_the_rows_that_match(wanted: dict[str, object], n_rows: int, plant: Plant) -> None:
    listing = listed(plant(*MVTEC_AD, "screw/license.txt"))
    chosen = select(listing, **wanted)  # type: ignore[arg-type]
    assert chosen.table.num_rows == n_rows
    assert chosen.table.schema == MANIFEST.schema
    assert [row for row in listing.table.to_pylist() if row in chosen.table.to_pylist()] == chosen.table.to_pylist()
    assert chosen.skipped == listing.skipped


def test_an_image_of_which_nothing_is_said_is_a_good_one_to_train_on(plant: Plant) -> None:
    listing = listed(plant("1.png"), category="screw")
    assert select(listing, split="test").table.num_rows == select(listing, defect="dent").table.num_rows == 0
    assert select(listing, split="train", defect="good").table.equals(listing.table)


def test_a_sample_is_drawn_from_each_category_by_the_seed(plant: Plant) -> None:
    root = plant(*(f"{category}/train/good/{i}.png" for category in ("screw", "lid") for i in range(9)), "nut/train/good/1.png")
    listing = listed(root)
    drawn = sample(listing, 4, seed=3)
    assert Counter(drawn.table["category"].to_pylist()) == {"lid": 4, "nut": 1, "screw": 4}
    assert drawn.table.equals(sample(listing, 4, seed=3).table)
    assert not drawn.table.equals(sample(listing, 4, seed=4).table)
    assert set(drawn.table["uri"].to_pylist()) <= set(listing.table["uri"].to_pylist())
    assert drawn.table["uri"].to_pylist() == sorted(drawn.table["uri"].to_pylist())


def test_categories_together_are_one_and_keep_what_they_are_of(plant: Plant) -> None:
    listing = listed(plant("lid/train/good/1.png", "nut/test/dent/2.png"))
    one = together(listing, "all parts")
    assert one.categories == ["all parts"]
    assert [dict(attributes)["product"] for attributes in one.table["attributes"].to_pylist()] == ["lid", "nut"]
    assert one.table.schema.equals(MANIFEST.schema)
    assert select(one, split="test").table.num_rows == 1
    assert one.digest() != listing.digest()
    with pytest.raises(ConfigError, match="'a/b' is not a usable name"):
        together(listing, "a/b")


def test_images_are_grouped_by_an_attribute_or_by_what_an_expression_finds(plant: Plant) -> None:
    root = plant(*(f"part-{part}/screw/side-{side}.png" for part in (1, 2) for side in "ab"))
    rows = listed(root, path_pattern="{part}/{category}/{name}").table
    expected = [[0, 0, 1, 1], [0, 1, 0, 1]]
    for group_by, groups in zip((("part", r"part-(\d)", r"(part)-(\d)"), (r"side-(.)\.png$",)), expected, strict=True):
        for one in group_by:
            keys = group_keys(rows, one)
            assert keys is not None
            assert [list(dict.fromkeys(keys)).index(key) for key in keys] == groups, one
    assert group_keys(rows, "auto") is group_keys(rows, "none") is None


@pytest.mark.parametrize(
    ("group_by", "says"),
    [
        ("line", "--group-by line: no attribute of all images, and a regular expression without a group; expected auto"),
        ("part-(", r"no regular expression \(.*\); expected .*; the images have the attributes: part"),
        (r"part-(1)", r"not in 1 of 2 images, such as .*part-2/screw/a\.png; expected .* such as 'part-\(\[0-9\]\+\)'"),
    ],
)
def test_what_groups_no_images_is_refused_with_an_example(plant: Plant, group_by: str, says: str) -> None:
    rows = listed(plant("part-1/screw/a.png", "part-2/screw/a.png"), path_pattern="{part}/{category}/{name}").table
    with pytest.raises(ConfigError, match=says):
        group_keys(rows, group_by)


def test_a_sample_is_of_whole_groups_but_for_the_last(plant: Plant) -> None:
    listing = listed(plant(*(f"screw/train/good/{part}-{side}.png" for part in range(9) for side in "abc")))
    for seed in range(5):
        drawn = sample(listing, 7, seed, r"(\d)-.\.png")
        parts = Counter(str(uri).rsplit("/", 1)[1][0] for uri in drawn.table["uri"].to_pylist())
        assert sorted(parts.values()) == [1, 3, 3]
