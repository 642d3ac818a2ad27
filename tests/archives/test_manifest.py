"""Every image of an archive gets a category, a stable id and a place in the order, or the listing is refused."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from differnet_ray.archives.index import IMAGE_SUFFIXES, image_id
from differnet_ray.archives.manifest import Listing, group_keys, list_images, sample, select, together
from differnet_ray.errors import ConfigError
from differnet_ray.storage.locations import canonical
from differnet_ray.tables import MANIFEST, check_category

Plant = Callable[..., Path]
MVTEC_AD = (
    "screw/train/good/000.png",
    "screw/train/good/001.png",
    "screw/test/good/000.png",
    "screw/test/scratch_head/000.png",
    "metal_nut/test/bent/000.png",
)


def listed(*locations: Path | str, **options: object) -> Listing:
    """Returns the listing of some locations."""
    return list_images([str(location) for location in locations], **options)  # type: ignore[arg-type]


def column(listing: Listing, name: str) -> list[object]:
    """Returns the values of a column."""
    values: list[object] = listing.table[name].to_pylist()
    return values


def attributes(listing: Listing) -> list[dict[str, str]]:
    """Returns the attributes of each row."""
    return [dict(row) for row in listing.table["attributes"].to_pylist()]


# --- categories and attributes ----------------------------------------------------------------------------------------


def test_the_layout_of_mvtec_ad_gives_category_split_and_defect(plant: Plant) -> None:
    listing = listed(plant(*MVTEC_AD))
    assert listing.table.schema.equals(MANIFEST.schema, check_metadata=True)
    assert list(zip(column(listing, "category"), attributes(listing), strict=True)) == [
        ("metal_nut", {"split": "test", "defect": "bent"}),
        ("screw", {"split": "test", "defect": "good"}),
        ("screw", {"split": "test", "defect": "scratch_head"}),
        ("screw", {"split": "train", "defect": "good"}),
        ("screw", {"split": "train", "defect": "good"}),
    ]
    assert listing.categories == ["metal_nut", "screw"]


def test_a_row_says_where_the_image_is_and_how_large(plant: Plant) -> None:
    root = plant("screw/test/good/1.png")
    (row,) = listed(root).table.to_pylist()
    path = root / "screw/test/good/1.png"
    assert row["uri"] == f"file://{path}"
    assert row["size"] == path.stat().st_size
    assert row["image_id"] == image_id(row["uri"])
    assert row["etag"]
    assert (row["member"], row["offset"], row["captured_at"]) == (None, None, None)


def test_the_category_may_be_the_location_itself(plant: Plant) -> None:
    root = plant(*MVTEC_AD)
    assert listed(root / "screw").categories == listed(root / "screw" / "test" / "good").categories == ["screw"]


def test_a_layout_below_other_folders_is_found(plant: Plant) -> None:
    listing = listed(plant("plant 1/2026/screw/test/good/1.png", "plant 2/screw/train/good/1.png"))
    assert column(listing, "category") == ["screw", "screw"]


def test_masks_hidden_files_and_others_are_counted_but_not_listed(plant: Plant) -> None:
    root = plant(
        *MVTEC_AD,
        "screw/ground_truth/scratch_head/000_mask.png",
        "screw/ground_truth/deeper/still/000_mask.PNG",
        "screw/test/good/.hidden.png",
        ".cache/screw/test/good/000.png",
        "screw/.thumbnails/x.png",
        "screw/license.txt",
        "screw/test/good/000.png.json",
        "screw/test/good/no_suffix",
    )
    listing = listed(root)
    assert listing.table.num_rows == len(MVTEC_AD)
    assert listing.skipped == {"mask": 2, "hidden": 3, "not an image": 3}


def test_what_lies_above_the_location_hides_nothing(plant: Plant) -> None:
    root = plant("screw/test/good/1.png", below=".hidden/ground_truth/archive")
    assert listed(root).table.num_rows == 1
    assert listed(root / "screw/test/good/1.png").table.num_rows == 1


def test_every_suffix_of_an_image_counts_in_any_case(plant: Plant) -> None:
    names = [f"{n}{suffix}" for n, suffix in enumerate(IMAGE_SUFFIXES)]
    root = plant(*names, *(name.upper() for name in names))
    assert listed(root, category="screw").table.num_rows == 2 * len(IMAGE_SUFFIXES)


@pytest.mark.parametrize("name", ["a b.png", "ü 漢 🙂.png", 'it\'s "q".png', "100%20%.png", "a\nb.png", "#?*[x]&\\.png"])
def test_any_file_name_is_an_image_of_its_category(name: str, plant: Plant) -> None:
    root = plant(f"screw/test/good/{name}")
    listing = listed(root)
    assert column(listing, "uri") == [f"file://{root}/screw/test/good/{name}"]
    assert column(listing, "category") == ["screw"]
    assert column(listed(root, path_pattern="{category}/test/{defect}/{name}"), "category") == ["screw"]
    assert column(listed(root / "screw/test/good" / name), "image_id") == column(listing, "image_id")


def test_a_newline_in_a_folder_above_the_layout_changes_nothing(plant: Plant) -> None:
    assert column(listed(plant("line\n1/screw/test/good/1.png")), "category") == ["screw"]


def test_a_file_name_that_is_no_unicode_is_counted(plant: Plant) -> None:
    folder = plant("screw/test/good/1.png") / "screw/test/good"
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png")).write_bytes(b"x")
    assert listed(folder).skipped == {"name is not UTF-8": 1}


def test_the_category_option_overrides_the_path(plant: Plant) -> None:
    listing = listed(plant(*MVTEC_AD, "loose.png"), category="washer")
    assert listing.categories == ["washer"]
    assert listing.table.num_rows == len(MVTEC_AD) + 1
    assert {"split": "test", "defect": "scratch_head"} in attributes(listing)
    assert {} in attributes(listing)


def test_names_of_a_path_pattern_become_attributes(plant: Plant) -> None:
    root = plant("hall 7/line_3/2026-01-31/screw/0001.jpg", "hall 7/line_4/2026-01-30/nut/0002.jpg")
    listing = listed(root, path_pattern="{line}/{date}/{category}/{name}")
    assert list(zip(column(listing, "category"), attributes(listing), strict=True)) == [
        ("nut", {"line": "line_4", "date": "2026-01-30"}),
        ("screw", {"line": "line_3", "date": "2026-01-31"}),
    ]


@pytest.mark.parametrize(
    ("pattern", "category", "others"),
    [
        ("/{category}/{name}", "screw", {}),
        ("line_{line}/{category}/{name}", "screw", {"line": "3.a"}),
        ("{category}/{camera}-{number}.png", "screw", {"camera": "top", "number": "17"}),
        ("line_3.a/{category}/top-17.png", "screw", {}),
        ("{any}/{line}/{category}/{name}", "screw", {"any": "archive", "line": "line_3.a"}),
    ],
)
def test_a_path_pattern_may_mix_text_and_names(pattern: str, category: str, others: dict[str, str], plant: Plant) -> None:
    listing = listed(plant("line_3.a/screw/top-17.png"), path_pattern=pattern)
    assert column(listing, "category") == [category]
    assert attributes(listing) == [others]


@pytest.mark.parametrize("pattern", ["line_3xa/{category}/{name}", "{category}/top-18.png", "{category}/.*"])
def test_the_text_of_a_path_pattern_is_no_regular_expression(pattern: str, plant: Plant) -> None:
    with pytest.raises(ConfigError, match="1 images have no category"):
        listed(plant("line_3.a/screw/top-17.png"), path_pattern=pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "category/name",
        "{}/{category}",
        "{1line}/{category}/{name}",
        "{category}/{category}/{name}",
        "{a line}/{category}/{name}",
        "{line:d}/{category}/{name}",
        "{category",
        "category}",
        pytest.param("{line}/{category/{name}"),
        pytest.param("{category}}/{name}"),
        pytest.param("{{category}}/{name}"),
        pytest.param("{a²}/{category}/{name}"),
    ],
)
def test_a_malformed_path_pattern_is_refused_by_name(pattern: str, plant: Plant) -> None:
    root = plant("line/screw/1.png")
    with pytest.raises(ConfigError) as caught:
        listed(root, path_pattern=pattern)
    assert f"path pattern {pattern!r}: expected" in str(caught.value)


def test_images_without_a_category_are_counted_with_an_example_and_the_mend(plant: Plant) -> None:
    root = plant(*MVTEC_AD, "loose/b.png", "loose/a.png", "c.png")
    with pytest.raises(ConfigError) as caught:
        listed(root)
    message = str(caught.value)
    assert message.startswith(f"3 images have no category, the first is file://{root}/c.png: ")
    assert "--category" in message
    assert "--path-pattern" in message


@pytest.mark.parametrize(
    "name", ["backbones", ".hidden", "_private", "a=b", "a\\b", "a/b", "a\tb", "a\nb", "", ".", "..", "x" * 101]
)
def test_a_category_that_cannot_be_a_folder_or_partition_is_refused(name: str, plant: Plant) -> None:
    with pytest.raises(ConfigError) as caught:
        check_category(name)
    assert repr(name) in str(caught.value)
    with pytest.raises(ConfigError):
        listed(plant("screw/test/good/1.png"), category=name)


@pytest.mark.parametrize("name", ["backbones", "_private", "a=b", "a\tb"])
def test_a_folder_whose_name_is_no_category_is_refused_too(name: str, plant: Plant) -> None:
    with pytest.raises(ConfigError, match="is not a usable name"):
        listed(plant("screw/test/good/1.png", f"{name}/test/good/1.png"))


@pytest.mark.parametrize("name", ["screw", "x" * 100, "Größe 漢", "100% wool", 'it\'s "q"', "a.b_c-d", "0042", "a+b&c#?*[x]"])
def test_any_other_category_will_do(name: str) -> None:
    check_category(name)


# --- locations --------------------------------------------------------------------------------------------------------


def test_a_missing_location_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere: no such file or folder; expected a folder of images"):
        listed(tmp_path / "nowhere")


def test_a_location_without_images_is_named_even_beside_a_good_one(plant: Plant) -> None:
    good, empty = plant(*MVTEC_AD), plant("a.txt", ".b.png", below="empty")
    with pytest.raises(ConfigError, match=r"empty: no images among its 2 files; expected jpg, jpeg, png"):
        listed(good, empty)


def test_an_image_file_is_a_location(plant: Plant) -> None:
    root = plant(*MVTEC_AD)
    single = listed(root / MVTEC_AD[3])
    assert single.table.to_pylist() == [row for row in listed(root).table.to_pylist() if row["uri"].endswith(MVTEC_AD[3])]


def test_a_file_that_is_no_image_is_refused_as_a_location(plant: Plant) -> None:
    with pytest.raises(ConfigError, match=r"readme.txt: no images among its 1 files"):
        listed(plant("readme.txt") / "readme.txt")


def test_overlapping_locations_list_each_image_once(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    root = plant(*MVTEC_AD)
    monkeypatch.chdir(root.parent)
    once = listed(root)
    assert listed(root, "archive/", f"file://{root}", root / "screw", root / MVTEC_AD[0]).table.equals(once.table)


def test_overlapping_locations_count_each_skipped_file_once(plant: Plant) -> None:
    root = plant(*MVTEC_AD, "screw/license.txt", "screw/ground_truth/bent/000_mask.png")
    assert listed(root, root).skipped == listed(root).skipped == {"not an image": 1, "mask": 1}


def test_several_locations_make_one_sorted_listing(plant: Plant) -> None:
    b, a = plant("screw/test/good/1.png", below="b"), plant("screw/test/good/2.png", "nut/test/good/3.png", below="a")
    names = [str(uri).split("/")[-5:] for uri in column(listed(b, a), "uri")]
    assert [(name[0], name[1], name[4]) for name in names] == [
        ("a", "nut", "3.png"),
        ("a", "screw", "2.png"),
        ("b", "screw", "1.png"),
    ]


# --- ids, order, digest -----------------------------------------------------------------------------------------------


def test_an_id_keeps_its_value_for_ever() -> None:
    assert image_id("s3://plant/line1/0001.jpg") == "b376d05539358d860c0660a819c97fce"
    assert image_id("s3://plant/line1.tar", "a/0001.jpg") == "bd38e38ab7e941fbba145ab675b7a04f"


@settings(deadline=None, max_examples=50)
@given(st.sets(st.tuples(st.text("s/\ud800ü ", max_size=4), st.none() | st.text("a/ü\n", min_size=1, max_size=4)), max_size=9))
def test_ids_differ_for_different_images(images: set[tuple[str, str | None]]) -> None:
    ids = {image_id(uri, member) for uri, member in images}
    assert len(ids) == len(images)
    assert all(len(bytes.fromhex(name)) == 16 for name in ids)


def test_the_spelling_of_the_path_does_not_change_the_ids(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    root = plant(*MVTEC_AD)
    monkeypatch.chdir(root)
    expected = listed(root)
    monkeypatch.setenv("HOME", str(root.parent))
    for spelling in [".", "./", "../archive", f"{root}//", f"file://{root}", "~/archive"]:
        assert listed(spelling).table.equals(expected.table)
        assert listed(spelling).digest() == expected.digest()


def test_rows_are_sorted_by_category_and_uri_and_ids_are_distinct(plant: Plant) -> None:
    names = [f"{category}/{split}/good/{n:03d}.png" for category in "cab" for split in ("train", "test") for n in range(9)]
    random.Random(0).shuffle(names)
    listing = listed(plant(*names))
    keys = list(zip(column(listing, "category"), column(listing, "uri"), strict=True))
    assert keys == sorted(keys)
    assert len(set(column(listing, "image_id"))) == len(names) == listing.table.num_rows


def test_the_digest_changes_with_each_file_and_with_nothing_else(plant: Plant) -> None:
    root = plant(*MVTEC_AD, "screw/license.txt")
    digests = [listed(root).digest()]
    assert listed(root).digest() == digests[0]
    (root / "screw/license.txt").write_text("not an image: changed")
    os.utime(root, (1, 1))
    assert listed(root).digest() == digests[0]
    image = root / MVTEC_AD[0]
    image.write_bytes(b"another size")
    digests.append(listed(root).digest())
    image.write_bytes(b"another.size")
    os.utime(image, (1_700_000_000, 1_700_000_000))
    digests.append(listed(root).digest())
    plant("screw/test/good/new.png")
    digests.append(listed(root).digest())
    (root / "screw/test/good/new.png").rename(root / "screw/test/good/renamed.png")
    digests.append(listed(root).digest())
    (root / "screw/test/good/renamed.png").unlink()
    assert listed(root).digest() == digests[2]
    image.unlink()
    digests.append(listed(root).digest())
    assert len(set(digests)) == 6
    assert all(len(bytes.fromhex(digest)) == 32 for digest in digests)


def test_the_digest_changes_with_categories_and_attributes(plant: Plant) -> None:
    root = plant("line_1/screw/1.png")
    patterns = ("{category}/{name}", "{line}/{category}/{name}", "{category}/{line}/{name}")
    assert len({listed(root, path_pattern=pattern).digest() for pattern in patterns}) == 3


@pytest.mark.parametrize("limit", [1, 3, 5, 99])
def test_a_limit_keeps_the_first_rows(limit: int, plant: Plant) -> None:
    root = plant(*MVTEC_AD)
    assert listed(root, limit=limit).table.equals(listed(root).table.slice(0, limit))


# --- select -----------------------------------------------------------------------------------------------------------


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
    assert select(listing, split="train", defect="good").table.equals(pa.table(listing.table))


def test_a_sample_is_drawn_from_each_category_by_the_seed(plant: Plant) -> None:
    root = plant(*(f"{category}/train/good/{i}.png" for category in ("screw", "lid") for i in range(9)), "nut/train/good/1.png")
    listing = listed(root)
    drawn = sample(listing, 4, seed=3)
    assert Counter(column(drawn, "category")) == {"lid": 4, "nut": 1, "screw": 4}
    assert drawn.table.equals(sample(listing, 4, seed=3).table)
    assert not drawn.table.equals(sample(listing, 4, seed=4).table)
    assert set(column(drawn, "uri")) <= set(column(listing, "uri"))
    assert column(drawn, "uri") == sorted(column(drawn, "uri"))


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
        parts = Counter(str(uri).rsplit("/", 1)[1][0] for uri in column(drawn, "uri"))
        assert sorted(parts.values()) == [1, 3, 3]


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


def test_uris_of_a_listing_are_canonical(plant: Plant) -> None:
    uris = column(listed(plant(*MVTEC_AD, "a  b/ü/%41/test/good/1.png")), "uri")
    assert [canonical(str(uri)) for uri in uris] == uris
