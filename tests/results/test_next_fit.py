"""The images that are proposed for a fit: which, how evenly, and that `fit --manifest` and the fetching stage read them."""

from __future__ import annotations

from collections import Counter
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from archive_files import images, pack
from published_nights import an_image, publish_night

from differnet_ray.archives.fetch import FetchImages
from differnet_ray.archives.manifest import Listing, list_images, select
from differnet_ray.config import ImageForm
from differnet_ray.results import next_fit
from differnet_ray.results.next_fit import FEWEST, MOST, NIGHTS, TAKEN, Wanted, write_next_fit
from differnet_ray.storage.locations import canonical

DT = date(2026, 1, 31)


def wanted(**changes: Any) -> Wanted:
    values: dict[str, Any] = {"category": "screw", "dt": DT, "since": DT, "changed": ("line", "C"), "attributes": ("line",)}
    return Wanted(**values | {"inner": (0.5, 2.0)} | changes)


def night(days_ago: int, n: int = 40, lines: str = "AB", **changes: Any) -> list[dict[str, Any]]:
    dt = DT - timedelta(days=days_ago)
    return [
        an_image(f"s3://plant/{dt}/{line}/{k}.png", attributes=[("line", line)], **changes) for line in lines for k in range(n)
    ]


def written(output: str, tmp_path: Path, asked: Wanted) -> tuple[tuple[int, int], Listing]:
    uri = canonical(str(tmp_path / "next fit" / "100%25 wool.parquet"))
    counts = write_next_fit(output, uri, asked)
    return counts, list_images([uri])


def test_images_are_healthy_ones_of_every_night_and_part(output: str, tmp_path: Path) -> None:
    for days in range(4):
        rows = night(days)
        rows[0] |= {"status": "anomalous", "anomaly_score": 1.9}
        rows[1] |= {"status": "review"}
        rows[2] |= {"anomaly_score": 2.1}
        rows[3] |= {"anomaly_score": 0.4}
        rows[4] |= {"status": "unreadable", "anomaly_score": None, "error": "cut off"}
        publish_night(output, DT - timedelta(days=days), rows)
    publish_night(output, DT - timedelta(days=NIGHTS), night(NIGHTS))  # a day too old
    counts, listing = written(output, tmp_path, wanted())
    assert counts == (4 * 75, 0)
    chosen = {row["uri"] for row in listing.table.to_pylist()}
    for days in range(4):
        start = f"s3://plant/{DT - timedelta(days=days)}"
        assert {f"{start}/A/{k}.png" for k in range(5, 40)} <= chosen
        assert not {f"{start}/A/{k}.png" for k in range(5)} & chosen
    assert select(listing, split="train", defect="good").table.num_rows == 300
    assert {dict(row["attributes"])["line"] for row in listing.table.to_pylist()} == {"A", "B"}


def test_an_image_that_was_flagged_in_any_night_is_none_and_one_that_came_twice_is_once(output: str, tmp_path: Path) -> None:
    first, again = night(3), night(3)
    first[0] |= {"status": "anomalous"}
    publish_night(output, DT - timedelta(days=3), first)
    publish_night(output, DT, again)
    counts, listing = written(output, tmp_path, wanted())
    assert counts == (79, 0)
    assert first[0]["uri"] not in listing.table["uri"].to_pylist()


def test_large_and_small_parts_have_the_same_share_of_what_is_taken(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(next_fit, "MOST", 60)
    for days in range(3):
        publish_night(output, DT - timedelta(days=days), night(days, 200, "A") + night(days, 12, "B"))
    counts, listing = written(output, tmp_path, wanted())
    assert counts == (60, 0)
    by_part = Counter(tuple(row["uri"].split("/")[3:5]) for row in listing.table.to_pylist())
    assert set(by_part.values()) == {10}
    assert len(by_part) == 6
    assert written(output, tmp_path, wanted())[1].table.equals(listing.table)  # the same rows, the same images
    assert MOST == 2000


def test_of_a_part_that_changed_only_nights_since_count_and_the_thresholds_of_before_do_not(
    output: str, tmp_path: Path
) -> None:
    for days in range(5):
        rows = night(days)
        if days <= 1:  # the camera of line B
            for n, row in enumerate(rows):
                if dict(row["attributes"])["line"] == "B":
                    row |= {"status": "anomalous", "anomaly_score": 10.0 + n}
        publish_night(output, DT - timedelta(days=days), rows)
    counts, listing = written(output, tmp_path, wanted(changed=("line", "B"), since=DT - timedelta(days=1)))
    chosen = [row["uri"].removeprefix("s3://plant/").split("/") for row in listing.table.to_pylist()]
    of_b = [(day, int(name.removesuffix(".png"))) for day, line, name in chosen if line == "B"]
    assert counts == (len(chosen), len(of_b))
    assert {day for day, _ in of_b} == {str(DT), str(DT - timedelta(days=1))}
    assert max(n for _, n in of_b) < TAKEN * 40 + 1  # not the highest fifth
    assert len(of_b) == 2 * TAKEN * 40
    assert Counter(line for _, line, _ in chosen)["A"] == 5 * 40


def test_a_part_that_changed_has_its_share_however_few_its_nights_are(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(next_fit, "MOST", 60)
    for days in range(6):
        publish_night(output, DT - timedelta(days=days), night(days, lines="ABC"))
    counts, listing = written(output, tmp_path, wanted(changed=("line", "B")))
    assert counts == (60, 20)
    lines = Counter((row["uri"].split("/")[4], row["uri"].split("/")[3]) for row in listing.table.to_pylist())
    assert lines["B", str(DT)] == 20
    assert {lines[line, str(DT - timedelta(days=days))] for line in "AC" for days in range(6)} <= {3, 4}


def test_a_change_of_the_whole_category_takes_nothing_of_before(output: str, tmp_path: Path) -> None:
    for days in range(4):
        publish_night(output, DT - timedelta(days=days), night(days))
    since = DT - timedelta(days=1)
    counts, listing = written(output, tmp_path, wanted(changed=("", ""), since=since))
    assert counts == (2 * 64, 2 * 64)
    assert min(row["uri"].split("/")[3] for row in listing.table.to_pylist()) == str(since)


def test_of_too_few_images_none_is_proposed(output: str, tmp_path: Path) -> None:
    publish_night(output, DT, night(0, FEWEST - 1, "A"))
    uri = canonical(str(tmp_path / "none.parquet"))
    assert write_next_fit(output, uri, wanted()) == (0, 0)
    assert not (tmp_path / "none.parquet").exists()


def test_without_attributes_and_without_a_calibration_set_nights_alone_are_parts(output: str, tmp_path: Path) -> None:
    publish_night(output, DT, night(0, anomaly_score=50.0))
    assert written(output, tmp_path, wanted(attributes=(), inner=None))[0] == (80, 0)


def test_members_of_archives_are_found_and_read_again(output: str, tmp_path: Path) -> None:
    names = [f"good/{n:02d}.png" for n in range(24)]
    archives = [pack(tmp_path / f"line A.{kind}", images(names)) for kind in ("tar", "zip", "tar.gz")]
    rows = [an_image(canonical(str(archive)), member=name) for archive in archives for name in names]
    for row in rows:  # attributes that a manifest would take for its own columns
        row["attributes"] = [
            ("size", "large"),
            ("uri", "x"),
            ("Path", "y"),
            ("split", "test"),
            ("line", "A & B"),
            ("größe", "1"),
        ]
    publish_night(output, DT, rows)
    counts, listing = written(output, tmp_path, wanted())
    assert counts == (72, 0)
    assert set(listing.table["image_id"].to_pylist()) == {row["image_id"] for row in rows}
    (attributes,) = {tuple(sorted(values)) for values in listing.table["attributes"].to_pylist()}
    assert attributes == (("defect", "good"), ("größe", "1"), ("line", "A & B"), ("split", "train"))
    fetched = FetchImages({"screw": ImageForm(8)})(listing.table)
    assert fetched["status"].null_count == 72, fetched["error"].to_pylist()[:3]


def test_the_file_is_small_and_plain(output: str, tmp_path: Path) -> None:
    publish_night(output, DT, night(0))
    uri = str(tmp_path / "plain.parquet")
    write_next_fit(output, canonical(uri), wanted())
    assert pq.read_schema(uri).names == ["uri", "member", "category", "captured_at", "line", "split", "defect"]
