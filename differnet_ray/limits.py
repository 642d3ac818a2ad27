"""What a nightly audit is asked: how many false alarms, what it must never pass over, what is known, what nobody wants to hear.

Standard library only. Each class checks its ranges when it is made and raises `ConfigError` naming the key, the value and what
is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import date
from typing import Any

from differnet_ray.errors import ConfigError, require

ANY = "*"  # every category, attribute or value
RATES = ("anomalous_rate", "review_rate", "outside_rate", "unreadable_rate", "missing_rate")
VALUES = ("score_median", "score_q90", "brightness", "contrast", "sharpness")
VOLUME = "images"
MEASURES = (VOLUME, *RATES, *VALUES)


@dataclass(frozen=True)
class Where:
    """Some of what is watched; `*` is all.

    Attributes:
        category: product category.
        attribute, value: of its images, such as line and B; an attribute `*` is the category as a whole and all its parts.
        measure: one of `MEASURES`.
    """

    category: str = ANY
    attribute: str = ANY
    value: str = ANY
    measure: str = ANY

    def __post_init__(self) -> None:
        require(self.measure in (ANY, *MEASURES), "measure", self.measure, ", ".join((ANY, *MEASURES)))

    def holds(self, category: str, attribute: str, value: str, measure: str) -> bool:
        """Whether it is meant."""
        asked = ((self.category, category), (self.attribute, attribute), (self.value, value), (self.measure, measure))
        return all(wanted in (ANY, found) for wanted, found in asked)


@dataclass(frozen=True)
class KnownEvent(Where):
    """Something was changed on a day, such as a camera: nights before it are no reference any more."""

    day: date = date.min
    why: str = ""


@dataclass(frozen=True)
class Muted(Where):
    """No alarm is raised; it is in the table with its reason."""

    until: date = date.max  # the last day
    why: str = ""


@dataclass(frozen=True)
class AlarmLimits:
    """When an audit alarms.

    Attributes:
        false_alarms_per_year: nights with a false alarm that are expected in a year of nights, at most.
        at_most, at_least: measure to the value that is an alarm when it is passed, whatever is usual.
        smallest_shift: of a median or quantile, in standard deviations of single images, of the calibration set for scores:
            what is smaller is not said.
        smallest_ratio: the same of rates and volumes, as a factor.
        reference_nights: how many healthy nights are looked back on.
        fewest_nights: with fewer of them the calibration set is the reference, or there is none.
        assumed_night_shift: until then, the standard deviation between nights of a score, in that of single images.
        assumed_night_factor: the prior of the standard deviation between nights of the logarithm of a rate's odds.
        drift_days: how long ago a slow drift may have begun.
        most_values: an attribute with more values than these is not split by.
        known_events, muted: see there.
    """

    false_alarms_per_year: float = 2.0
    at_most: Mapping[str, float] = field(default_factory=dict)
    at_least: Mapping[str, float] = field(default_factory=dict)
    smallest_shift: float = 0.2
    smallest_ratio: float = 1.5
    reference_nights: int = 28
    fewest_nights: int = 7
    assumed_night_shift: float = 0.25
    assumed_night_factor: float = 0.45
    drift_days: int = 40
    most_values: int = 50
    known_events: tuple[KnownEvent, ...] = ()
    muted: tuple[Muted, ...] = ()

    def __post_init__(self) -> None:
        for key, low in (("false_alarms_per_year", 0), ("assumed_night_shift", 0), ("assumed_night_factor", 0)):
            require(getattr(self, key) > low, key, getattr(self, key), f"a number over {low}")
        require(self.false_alarms_per_year <= 100, "false_alarms_per_year", self.false_alarms_per_year, "at most 100")
        require(self.smallest_shift >= 0, "smallest_shift", self.smallest_shift, "0 or more standard deviations")
        require(self.smallest_ratio >= 1, "smallest_ratio", self.smallest_ratio, "a factor of 1 or more")
        require(self.fewest_nights >= 7, "fewest_nights", self.fewest_nights, "7 or more")
        for key in ("reference_nights", "drift_days"):
            require(getattr(self, key) >= self.fewest_nights, key, getattr(self, key), "fewest_nights or more")
        for key in ("at_most", "at_least"):
            for measure, value in getattr(self, key).items():
                require(measure in MEASURES, key, measure, ", ".join(MEASURES))
                require(isinstance(value, int | float), f"{key}.{measure}", value, "a number")

    @property
    def days_back(self) -> int:
        """Days before tonight whose rows are needed at most: three blocks of the drift detector, or two months."""
        return max(3 * self.drift_days, 2 * self.reference_nights, 60)

    def reference_from(self, category: str, attribute: str, value: str, measure: str) -> date:
        """The day from which on nights are a reference."""
        days = (event.day for event in self.known_events if event.holds(category, attribute, value, measure))
        return max(days, default=date.min)

    def muted_by(self, category: str, attribute: str, value: str, measure: str, day: date) -> Muted | None:
        """Why no alarm is raised, or None."""
        found = (mute for mute in self.muted if day <= mute.until and mute.holds(category, attribute, value, measure))
        return next(found, None)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> AlarmLimits:
        """Limits as a TOML file has them: the keys above, `[[known_events]]` and `[[muted]]` as tables.

        Raises:
            ConfigError: a key is unknown, or a value is of another type or out of its range.
        """
        made = dict(values)
        for key, kind in (("known_events", KnownEvent), ("muted", Muted)):
            entries = made.pop(key, ())
            require(isinstance(entries, list | tuple), key, entries, f"tables, [[{key}]]")
            made[key] = tuple(_made(kind, key, entry) for entry in entries)
        limits: AlarmLimits = _made(AlarmLimits, "limits", made)
        return limits


def _made(kind: type[Any], name: str, values: Mapping[str, Any]) -> Any:
    """An instance of a dataclass from plain values."""
    require(isinstance(values, Mapping), name, values, "a table of keys and values")
    known = [key.name for key in fields(kind)]
    for key, value in values.items():
        require(key in known, f"{name} key", key, ", ".join(known))
        if key in ("day", "until"):
            require(type(value) is date, f"{name}.{key}", value, "a date such as 2026-01-31, without quotes")
    try:
        return kind(**values)
    except (AttributeError, TypeError) as error:
        raise ConfigError(f"{name} = {dict(values)!r} is not allowed: {error}") from error
