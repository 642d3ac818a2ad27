"""The same images, models and options are the same run; anything else is another, and takes no other's name."""

from __future__ import annotations

import re
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from staged_runs import DAY, a_run, published_run

from differnet_ray.errors import ConfigError, DifferNetError
from differnet_ray.results.runs import Run, plan_run, published, staging

WHAT: dict[str, Any] = {
    "dt": DAY,
    "listing_digest": "f" * 64,
    "models": {"screw": ("20260101T000000Z-aaaaaaaa", "a" * 64), "nut": ("20260101T000000Z-bbbbbbbb", "b" * 64)},
    "options": {"maps": "flagged", "n_transforms": "all"},
}


def planned(**changes: Any) -> Run:
    """Returns a run with some of what it is changed."""
    return plan_run(**(WHAT | changes))


def test_the_default_name_of_a_run_follows_from_what_it_is() -> None:
    run = planned()
    assert re.fullmatch(r"20260131-[0-9a-f]{12}", run.run_id)
    assert run.run_id == f"20260131-{run.fingerprint[:12]}"
    assert (run.run_id, run.fingerprint) == (planned().run_id, planned().fingerprint)


def test_the_order_in_which_models_and_options_are_given_does_not_matter() -> None:
    turned = planned(models=dict(reversed(WHAT["models"].items())), options=dict(reversed(WHAT["options"].items())))
    assert turned.fingerprint == planned().fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"dt": DAY + timedelta(days=1)},
        {"listing_digest": "e" * 64},
        {"models": WHAT["models"] | {"screw": ("20260101T000000Z-aaaaaaaa", "c" * 64)}},
        {"models": WHAT["models"] | {"screw": ("20260102T000000Z-aaaaaaaa", "a" * 64)}},
        {"models": {"screw": WHAT["models"]["screw"]}},
        {"models": {"screw": WHAT["models"]["nut"], "nut": WHAT["models"]["screw"]}},
        {"options": WHAT["options"] | {"n_transforms": "16"}},
        {"options": {"maps": "flagged"}},
        {"options": {"maps": "all", "n_transforms": "flagged"}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_any_change_of_what_a_run_is_makes_it_another(changes: dict[str, Any]) -> None:
    assert planned(**changes).fingerprint != planned().fingerprint
    assert planned(**changes).run_id != planned().run_id


def test_a_name_of_its_own_does_not_change_what_a_run_is() -> None:
    named = planned(run_id="nightly-2026.01_31")
    assert named.run_id == "nightly-2026.01_31"
    assert named.fingerprint == planned().fingerprint


@pytest.mark.parametrize("name", ["a", "0", "A.b_c-d", "x" * 100])
def test_letters_digits_dots_dashes_and_underscores_make_a_name(name: str) -> None:
    assert planned(run_id=name).run_id == name


@pytest.mark.parametrize("name", ["a/b", "../x", "..", ".hidden", "_private", "-x", "a b", "a\n", "ü", "a%20", "x" * 101])
def test_what_cannot_be_a_file_name_is_no_name(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        planned(run_id=name)
    assert f"run id {name!r}: expected" in str(caught.value)


def test_work_in_progress_lies_below_the_output_under_the_name_of_the_run() -> None:
    assert staging("s3://b/out", planned(run_id="n"), "rows") == "s3://b/out/_staging/n/rows"


def test_a_run_is_published_once_its_record_is_there(output: str) -> None:
    run = a_run()
    assert published(output, run) is None
    record = published_run(output, run)
    assert published(output, run) == record
    assert published(output, a_run()) == record
    assert published(output, a_run(n_transforms="4")) is None


def test_another_run_may_not_take_the_name_of_a_published_one(output: str) -> None:
    published_run(output, a_run(run_id="nightly"))
    assert published(output, a_run(run_id="nightly")) is not None
    for other in (
        a_run(run_id="nightly", n_transforms="4"),
        a_run(run_id="nightly", listing_digest="another"),
        a_run(run_id="nightly", dt=date(2026, 2, 1)),
    ):
        with pytest.raises(ConfigError, match="run id 'nightly' is taken by a run over other images, models or options"):
            published(output, other)


def test_a_damaged_record_is_named(output: str) -> None:
    run = a_run()
    published_run(output, run)
    path = Path(output.removeprefix("file://"), "runs", f"{run.run_id}.json")
    for content in (b"", b"{", b"{}", b"[]"):
        path.write_bytes(content)
        with pytest.raises(DifferNetError, match=re.escape(path.name)):
            published(output, run)
