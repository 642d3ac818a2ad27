"""An alarm is raised once, where it belongs: in the part that changed, or in the category where all its parts did.

A dark camera on line B also moves the median of its category, and of every shift that B works in. Of such rows of `drift` one
stays an alarm; the others get the verdict `elsewhere`, and their reason says where.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

ALARM, ELSEWHERE = "alarm", "elsewhere"
SUSPECT_P, SUSPECT_E = 0.01, 1e4  # of one test alone; the mean of an e-detector is at most the number of nights
LIMIT = "limit"  # a limit that people set holds for the very row


def attributed(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a night, of which those alarms that another one accounts for have the verdict `elsewhere`.

    By category and measure: where some parts of an attribute have one (also a muted one) and others are as usual, it is theirs
    and not the category's; where none is as usual, it is the category's, if that has it as well. A part is as usual that has
    no alarm and is not even suspect: one of many tests must be surer than that to alarm.

    Args:
        rows: `tables.DRIFT`.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault((row["category"], row["measure"]), []).append(place)
    found = [dict(row) for row in rows]
    for places in groups.values():
        for place, where in _accounted_for([rows[place] for place in places]).items():
            row = found[places[place]]
            if row["verdict"] == ALARM and LIMIT not in row["alarm"].split(","):
                found[places[place]] = row | {"verdict": ELSEWHERE, "reason": f"{where}: {row['reason']}"}
    return found


def _accounted_for(rows: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Rows of a category and measure whose alarm belongs elsewhere, and where."""
    whole = next((place for place, row in enumerate(rows) if not row["attribute"]), None)
    if whole is None or rows[whole]["alarm"] is None:
        return {}
    found: dict[int, str] = {}
    for attribute in sorted({row["attribute"] for row in rows} - {""}):
        parts = [place for place, row in enumerate(rows) if row["attribute"] == attribute]
        alarming = [place for place in parts if rows[place]["alarm"] is not None]
        if all(_is_suspect(rows[place]) for place in parts):
            found |= dict.fromkeys(alarming, "as in all of the category")
        elif alarming:
            found[whole] = f"in {attribute} {', '.join(rows[place]['attribute_value'] for place in alarming)}"
    return found


def _is_suspect(row: Mapping[str, Any]) -> bool:
    p_value, e_value = row["p_value"], row["e_value"]
    return row["alarm"] is not None or (1.0 if p_value is None else p_value) < SUSPECT_P or (e_value or 0.0) >= SUSPECT_E
