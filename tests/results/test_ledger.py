"""The ledger says what a set of plain Python would; what is interrupted leaves the old one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from staged_runs import manifest_of

from differnet_ray.archives.index import image_id
from differnet_ray.errors import StorageError
from differnet_ray.results import ledger as ledgers
from differnet_ray.results.ledger import EVER, Comparison, Ledger, compare, drop_unused, outermost, read_ledger, write_ledger
from differnet_ray.storage.files import list_files
from differnet_ray.storage.locations import canonical, join
from differnet_ray.tables import MANIFEST

NIGHT, WEEK = date(2026, 1, 31), timedelta(days=7)
PLANT = ["s3://plant"]


@dataclass(frozen=True)
class Seen:
    """What is known of an image."""

    category: str
    etag: str | None
    night: date = NIGHT


def uri_of(number: int) -> str:
    return f"s3://plant/{number}.png"


Model = dict[int, Seen]  # number of an image: what is known of it
NUMBERS = [number for number in range(200) if image_id(uri_of(number))[0] in "07f"]  # few files, so that it is quick
LISTINGS = st.dictionaries(
    st.sampled_from(NUMBERS), st.builds(Seen, st.sampled_from(["lid", "plate"]), st.sampled_from(["a", "b", None])), max_size=40
)
EVENTS = st.tuples(LISTINGS, st.integers(0, 3), st.one_of(st.none(), st.integers(-1, 6)), st.booleans())


def listing_of(images: Mapping[int, Seen]) -> pa.Table:
    rows = [
        {"image_id": image_id(uri_of(n)), "uri": uri_of(n), "category": seen.category, "etag": seen.etag, "attributes": []}
        for n, seen in images.items()
    ]
    return pa.Table.from_pylist(rows, schema=MANIFEST.schema)


def audited(output: str, listing: pa.Table, dt: date = NIGHT, **how: object) -> tuple[Comparison, list[str]]:
    """Compares and updates; returns what was found, and the URIs of what is to be scored."""
    old = read_ledger(output)
    found, taken = compare(output, old, listing, dt=dt, inputs=PLANT, **how)  # type: ignore[arg-type]
    write_ledger(output, Ledger(f"audit of {dt}", dt, outermost([*old.inputs, *PLANT]), found.files, found.n_images))
    return found, taken["uri"].to_pylist()


def contents(output: str) -> dict[str, dict[str, object]]:
    """All that the ledger holds, by image."""
    ledger = read_ledger(output)
    folder = join(output, "audit", "ledger")
    rows = [
        row for name in ledger.files.values() for group in ledgers.row_groups(join(folder, name)) for row in group.to_pylist()
    ]
    assert len(rows) == ledger.n_images
    return {str(row.pop("image_id")): row for row in rows}


@settings(max_examples=30, deadline=None)
@given(events=st.lists(EVENTS, max_size=4))
def test_it_says_what_a_plain_model_says(events: list[tuple[Model, int, int | None, bool]]) -> None:
    known: Model = {}
    dt = NIGHT
    with TemporaryDirectory() as folder:
        output = canonical(folder)
        for listed, days, since_days, everything in events:
            dt += timedelta(days=days)
            since = EVER if everything else None if since_days is None else NIGHT + timedelta(days=since_days)
            new = {n for n in listed if n not in known}
            changed = {
                n for n in listed.keys() & known if (listed[n].category, listed[n].etag) != (known[n].category, known[n].etag)
            }
            again = {n for n in listed.keys() & known if since and known[n].night >= since} - changed
            removed = known.keys() - listed.keys()
            found, taken = audited(output, listing_of(listed), dt, since=since)

            assert taken == [uri_of(n) for n in listed if n in new | changed | again]
            expected = {"new": new, "changed": changed, "again": again}
            for kind, numbers in expected.items():
                assert found.changes[kind] == Counter(listed[n].category for n in numbers)
            assert found.changes["removed"] == Counter(known[n].category for n in removed)
            assert found.listed == Counter(seen.category for seen in listed.values())
            assert found.is_whole
            known = {n: known[n] if n not in new | changed | again else replace(listed[n], night=dt) for n in listed}
            assert contents(output) == {image_id(uri_of(n)): vars(seen) for n, seen in known.items()}


def test_files_without_a_change_stay_and_replaced_ones_go(output: str) -> None:
    listing = manifest_of(per_category=40)
    audited(output, listing)
    before = read_ledger(output).files
    assert len(before) == 16
    changed = listing.slice(0, listing.num_rows - 1)
    gone = listing["image_id"][-1].as_py()
    audited(output, changed, NIGHT + WEEK)
    after = read_ledger(output).files
    assert {digit for digit in before if before[digit] != after[digit]} == {gone[0]}
    assert {file.uri.rsplit("/", 1)[1] for file in list_files(join(output, "audit", "ledger"))} == set(after.values())
    found, taken = audited(output, changed, NIGHT + WEEK)
    assert (read_ledger(output).files, taken) == (after, [])
    assert not any(found.changes.values())


def test_what_is_interrupted_before_the_last_step_has_not_happened(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    audited(output, manifest_of(["screw"]))
    before, known = read_ledger(output), contents(output)
    more = manifest_of(["screw", "a+b&c#?*[x]"], per_category=30)
    write, left = ledgers.write_bytes, [0]  # files that may be written until the disk is full

    def dying(uri: str, data: bytes) -> None:
        if not left[0]:
            raise StorageError("the disk is full")
        left[0] -= 1
        write(uri, data)

    monkeypatch.setattr(ledgers, "write_bytes", dying)
    digits = {name[0] for name in more["image_id"].to_pylist() if name not in known}
    for left[0] in (0, 7, len(digits)):  # a file for each digit, then ledger.json
        with pytest.raises(StorageError, match="full"):
            audited(output, more, NIGHT + WEEK)
        assert (read_ledger(output), contents(output)) == (before, known)
    monkeypatch.undo()
    drop_unused(output, read_ledger(output))
    assert len(list(list_files(join(output, "audit", "ledger")))) == len(before.files)
    found, taken = audited(output, more, NIGHT + WEEK)
    assert len(taken) == sum(found.changes["new"].values()) == 2 * 30 - 9
    assert len(contents(output)) == 2 * 30


def test_images_of_a_location_that_was_not_listed_are_not_gone(output: str) -> None:
    audited(output, manifest_of(["screw"]))
    found, taken = compare(output, read_ledger(output), manifest_of(["screw"], bucket="other"), dt=NIGHT, inputs=["s3://other"])
    assert (found.is_whole, found.changes["removed"], found.n_images, taken.num_rows) == (False, {}, 18, 9)
    for inputs in (["s3://plant", "s3://more"], PLANT):
        found, _ = compare(output, read_ledger(output), manifest_of(["screw"]).slice(4), dt=NIGHT, inputs=inputs)
        assert (found.is_whole, found.changes["removed"]) == (True, {"screw": 4})
    found, _ = compare(output, read_ledger(output), manifest_of(["screw"]), dt=NIGHT, inputs=["s3://plant/screw"])
    assert not found.is_whole


def test_late_are_new_images_of_days_before_the_last_night(output: str) -> None:
    first = manifest_of(["screw"], per_category=1)
    assert audited(output, first)[0].changes["late"] == {}
    days: list[tuple[datetime | None, str | None]] = [
        (None, None),
        (None, "2026-01-30"),
        (None, "2026-01-31"),
        (None, "no date"),
        (datetime(2026, 1, 30, 23, 59, tzinfo=UTC), "2026-02-01"),  # when it was taken counts before what its path says
        (datetime(2026, 1, 31, tzinfo=UTC), "2026-01-01"),
    ]
    rows = [
        {
            "image_id": image_id(uri_of(n)),
            "uri": uri_of(n),
            "category": "screw",
            "captured_at": taken,
            "attributes": [("line", "1")] + ([("date", day)] if day else []),
        }
        for n, (taken, day) in enumerate(days)
    ]
    listing = pa.concat_tables([first, pa.Table.from_pylist(rows, schema=MANIFEST.schema)])
    found, _ = audited(output, listing, NIGHT + timedelta(days=1))
    assert (found.changes["new"], found.changes["late"]) == ({"screw": 6}, {"screw": 2})


def test_a_dry_comparison_writes_nothing(output: str) -> None:
    found, _ = compare(output, Ledger(), manifest_of(), dt=NIGHT, inputs=PLANT, write=False)
    assert found.taken == 63
    assert not Path(output.removeprefix("file://")).exists()


def test_damage_is_said_with_what_to_do(output: str) -> None:
    audited(output, manifest_of())
    root = Path(output.removeprefix("file://"), "audit")
    name = read_ledger(output).files["3"]
    (root / "ledger" / name).write_bytes(b"PAR1 nothing")
    with pytest.raises(StorageError, match=f"{name}.*takes all images as new"):
        audited(output, manifest_of())
    (root / "ledger.json").write_text('{"audit_id": "x"}')
    with pytest.raises(StorageError, match=r"ledger\.json is damaged.*delete it"):
        read_ledger(output)
