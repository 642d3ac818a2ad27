"""BRIDGE: what to do about a night that alarms: the rules of docs/audit.md. An audit never fits or calibrates of itself.

rows of `drift` of the night and of the nights before -> proposals
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from typing import Any

from differnet_ray.limits import VOLUME, AlarmLimits
from differnet_ray.pipeline.attribution import ALARM, LIMIT
from differnet_ray.results.next_fit import Part

CHECK_UPLOAD, CHECK_CAMERA, LOOK, RECALIBRATE, REFIT = ACTIONS = (
    "check upload",
    "check camera",
    "look at parts",
    "recalibrate",
    "refit",
)
UPLOAD = (VOLUME, "unreadable_rate", "missing_rate")
PICTURES = ("brightness", "contrast", "sharpness")
FLAGGED = ("anomalous_rate", "review_rate")
MEDIAN = "score_median"
SCORES = (MEDIAN, "score_q90", "outside_rate")

LARGE_SHIFT = 1.0  # of scores, in standard deviations of single images
LARGE_OUTSIDE = 0.5  # share of images outside of the calibration scores
LASTING = 3  # nights
DRIFT_NIGHTS = 14  # what a slow drift leaves of the images that a refit may take
EVENT_DAYS = 14  # so long a known event explains scores that moved

Row = Mapping[str, Any]  # of `tables.DRIFT`
WHOLE: Part = ("", "")


@dataclass(frozen=True)
class Proposal:
    """What to do about a category, or a part of it.

    Attributes:
        category, attribute, attribute_value: where; two empty texts are the whole category.
        action: one of `ACTIONS`.
        reason: why, in words.
        command: that does it; None where it is for people.
        manifest: URI of the images that the command of a refit names.
        since: the first night after the change, of a refit.
    """

    category: str
    attribute: str
    attribute_value: str
    action: str
    reason: str
    command: str | None = None
    manifest: str | None = None
    since: date | None = None

    def as_json(self) -> dict[str, Any]:
        """As it stands in the record of an audit."""
        return asdict(self) | {"since": self.since and str(self.since)}


def propose(dt: date, tonight: Sequence[Row], before: Sequence[Row], limits: AlarmLimits) -> list[Proposal]:
    """The rules.

    Args:
        dt: the night.
        tonight: rows of `tables.DRIFT` of it.
        before: of the nights before.
        limits: the known events.
    """
    categories = sorted({row["category"] for row in tonight if row["verdict"] == ALARM})
    return [
        proposal
        for category in categories
        for proposal in _of_category(
            dt,
            [row for row in tonight if row["category"] == category],
            [row for row in before if row["category"] == category],
            limits,
        )
    ]


def _of_category(dt: date, rows: Sequence[Row], before: Sequence[Row], limits: AlarmLimits) -> list[Proposal]:
    category = rows[0]["category"]
    found = []
    for action, measures, advice in (
        (CHECK_UPLOAD, UPLOAD, "see what takes, sends and stores the images"),
        (CHECK_CAMERA, PICTURES, "see lamp, lens, exposure and position; what was changed on purpose is a known event"),
        (LOOK, FLAGGED, "look at the worst images: they may be real defects"),
    ):
        for part in _parts(rows, measures):
            said = _measures(row for row in rows if _of(row, measures) and (part == WHOLE or _part(row) == part))
            found.append(Proposal(category, *part, action, f"{said}: {advice}"))
    return found + _of_scores(dt, rows, before, limits, actions={proposal.action for proposal in found})


def _of_scores(dt: date, rows: Sequence[Row], before: Sequence[Row], limits: AlarmLimits, actions: set[str]) -> list[Proposal]:
    """What to do about scores that moved as a whole."""
    moved = [row for row in rows if _of(row, SCORES) and row["alarm"] != LIMIT]
    if not moved:
        return []
    parts = _parts(moved, SCORES, among=rows)
    part = parts[0] if len(parts) == 1 else WHOLE
    where = moved[0]["category"], *part
    shift = max((_shift(row) for row in moved), key=abs)
    outside = max((row["value"] for row in moved if row["measure"] == "outside_rate"), default=0.0)
    # only where the middle of all images moved: defects, however many, move the upper end
    middle = [row for row in moved if row["measure"] == MEDIAN or _is_outside(row)]
    if not middle and LOOK in actions:
        return []
    is_large = abs(shift) >= LARGE_SHIFT or any(map(_is_outside, moved))
    moved_much = [row for row in middle if abs(_shift(row)) >= LARGE_SHIFT or _is_outside(row)]
    nights, first = _lasting(dt, middle, before)
    drifts = any(row["alarm"] == "drift" for row in moved_much)  # a jump is one as well, from its first night on
    events = [
        event.day
        for event in limits.known_events
        if 0 <= (dt - event.day).days < EVENT_DAYS and any(event.holds(*_key(row)) for row in middle)
    ]
    said = f"{_measures(moved)}: the scores moved" + (f" by {shift:+.2g} standard deviations of an image" if shift else "")
    said += f" ({100 * outside:.2g} % outside of those of the calibration set)" if outside else ""
    said += f" on {', '.join(f'{name} {value}' for name, value in parts)}" if len(parts) > 1 else ""
    if events:
        return [Proposal(*where, REFIT, f"{said} since the known event of {max(events)}", since=max(events))]
    if moved_much and (nights >= LASTING or drifts):
        since = min(first, dt - timedelta(days=DRIFT_NIGHTS - 1)) if drifts else first
        return [Proposal(*where, REFIT, f"{said}, {'slowly' if drifts else f'for {nights} nights'}", since=since)]
    if CHECK_CAMERA in actions:
        return []  # the pictures changed: once they are as before, so are the scores
    if is_large:
        wait = f"look at images of the night; if the middle of the scores stays away for {LASTING} nights, a refit is proposed"
        return [] if LOOK in actions else [Proposal(*where, LOOK, f"{said}: {wait}")]
    good = "and the pictures did not change: put images of the night that a person found good into confirmed.csv (image_id)"
    return [Proposal(*where, RECALIBRATE, f"{said}, {good}")]


def _of(row: Row, measures: Sequence[str]) -> bool:
    return row["verdict"] == ALARM and row["measure"] in measures


def _is_outside(row: Row) -> bool:
    return bool(row["measure"] == "outside_rate" and row["value"] >= LARGE_OUTSIDE)


def _part(row: Row) -> Part:
    return row["attribute"], row["attribute_value"]


def _key(row: Row) -> tuple[str, str, str, str]:
    return row["category"], row["attribute"], row["attribute_value"], row["measure"]


def _measures(rows: Iterable[Row]) -> str:
    return ", ".join(sorted({row["measure"] for row in rows}))


def _parts(rows: Sequence[Row], measures: Sequence[str], among: Sequence[Row] | None = None) -> list[Part]:
    """Where measures alarm: the parts by the attribute that tells most, or the whole category where all of them or none do."""
    hit = {_part(row) for row in rows if _of(row, measures)}
    values: dict[str, set[str]] = {}
    for row in rows if among is None else among:
        values.setdefault(row["attribute"], set()).add(row["attribute_value"])
    shares = {name: sum(one == name for one, _ in hit) / len(values[name]) for name, _ in hit if name}
    if not shares:
        return [WHOLE] if hit else []
    name = min(shares, key=lambda name: (shares[name], name))
    return [WHOLE] if shares[name] == 1 else sorted(part for part in hit if part[0] == name)


def _shift(row: Row) -> float:
    """Of a score, in standard deviations of single images."""
    if row["measure"] == "outside_rate":
        return 0.0
    shifts = {"tonight": row["effect"], "drift": row["drift"]}
    return max((float(shifts[family] or 0.0) for family in row["alarm"].split(",") if family in shifts), key=abs, default=0.0)


def _lasting(dt: date, moved: Sequence[Row], before: Sequence[Row]) -> tuple[int, date]:
    """For how many nights on end the middle of the scores of the same parts has alarmed, and since when; tonight counts."""
    where = {_part(row) for row in moved}
    alarmed = {
        row["dt"] for row in before if row["measure"] in SCORES and row["alarm"] not in (None, LIMIT) and _part(row) in where
    }
    n, first = 1, dt
    for night in sorted({row["dt"] for row in before if row["dt"] < dt}, reverse=True):
        if night not in alarmed:
            break
        n, first = n + 1, night
    return n, first
