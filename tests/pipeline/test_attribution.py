"""An alarm stays where it belongs: in the part that changed, or in the category where all its parts did."""

from __future__ import annotations

from typing import Any

import pytest

from differnet_ray.pipeline.attribution import attributed

WHOLE = ("", "")
A, B, DAY, NIGHT = ("line", "A"), ("line", "B"), ("shift", "day"), ("shift", "night")


def row(cell: tuple[str, str], alarm: str | None, verdict: str = "alarm", measure: str = "brightness") -> dict[str, Any]:
    verdict = verdict if alarm else "ok"
    reason = "it is dark" if alarm else None
    return {
        "category": "lid",
        "attribute": cell[0],
        "attribute_value": cell[1],
        "measure": measure,
        "alarm": alarm,
        "verdict": verdict,
        "reason": reason,
    }


@pytest.mark.parametrize(
    ("alarming", "belongs"),
    [
        ([WHOLE, B], [B]),  # one line
        ([WHOLE, A, B], [WHOLE]),  # both
        ([B], [B]),  # too little for the category
        ([A, B], [A, B]),  # each of its own
        ([WHOLE], [WHOLE]),  # each too little
        ([WHOLE, B, DAY, NIGHT], [B]),  # which works in both shifts
        ([WHOLE, A, B, DAY], [DAY]),  # on both lines
        ([], []),
    ],
)
def test_an_alarm_belongs_to_the_parts_or_to_the_whole(alarming: list[tuple[str, str]], belongs: list[tuple[str, str]]) -> None:
    rows = [row(cell, "tonight" if cell in alarming else None) for cell in (WHOLE, A, B, DAY, NIGHT)]
    rows = [one for one in rows if one["attribute"] != "shift" or {DAY, NIGHT} & set(alarming)]
    found = attributed([*rows, row(WHOLE, "counts", measure="images")])
    still = [(one["attribute"], one["attribute_value"]) for one in found if one["verdict"] == "alarm"]
    assert still == [*belongs, WHOLE]  # another measure is another alarm
    for before, after in zip(rows, found, strict=False):
        assert after["alarm"] == before["alarm"]  # a night that is no reference for the next stays one
        assert after["verdict"] in (before["verdict"], "elsewhere")


def test_the_reason_says_where() -> None:
    whole, a, b = attributed([row(WHOLE, "tonight"), row(A, None), row(B, "tonight")])
    assert (whole["verdict"], whole["reason"]) == ("elsewhere", "in line B: it is dark")
    assert (a["verdict"], b["verdict"], b["reason"]) == ("ok", "alarm", "it is dark")


def test_a_muted_part_accounts_for_its_category_and_a_limit_for_nothing_but_itself() -> None:
    muted = [row(WHOLE, "tonight"), row(A, None), row(B, "tonight", "muted")]
    assert [one["verdict"] for one in attributed(muted)] == ["elsewhere", "ok", "muted"]
    limit = [row(WHOLE, "tonight,limit"), row(A, None), row(B, "tonight")]
    assert [one["verdict"] for one in attributed(limit)] == ["alarm", "ok", "alarm"]
