"""BRIDGE: the drift of a night: its published rows against the nights before and the models' calibration.

scores of the night, drift of the nights before, calibration sets -> rows of `drift`, and what alarmed, in words
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from differnet_ray.errors import ModelStoreError
from differnet_ray.limits import VOLUME, AlarmLimits
from differnet_ray.pipeline.attribution import ALARM
from differnet_ray.pipeline.judge import judge
from differnet_ray.pipeline.night_summaries import categories_of_night, models_of_night, observed_of_night, rows_of_night
from differnet_ray.pipeline.observed import Calibration, Key, Observed, Past
from differnet_ray.results.drift_table import drift_before
from differnet_ray.store.model_store import ModelStore
from differnet_ray.tables import DRIFT

_OBSERVED = tuple(Observed.__dataclass_fields__)


@dataclass(frozen=True)
class Alarm:
    """A row of `drift` that alarms, with the columns of it that people ask for.

    Attributes:
        category, attribute, attribute_value, measure, value, reference, p_value, n_images, reason: as in `tables.DRIFT`.
        alarm: the families that alarm.
    """

    category: str
    attribute: str
    attribute_value: str
    measure: str
    alarm: tuple[str, ...]
    value: float
    reference: float | None
    p_value: float | None
    n_images: int
    reason: str

    @property
    def text(self) -> str:
        """Where, and why."""
        return f"{place_of(self.category, self.attribute, self.attribute_value)}: {self.reason}"

    def as_json(self) -> dict[str, Any]:
        """As it stands in the record of an audit; JSON has no infinite numbers."""
        values = asdict(self) | {"alarm": list(self.alarm), "text": self.text}
        return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()}


@dataclass(frozen=True)
class NightDrift:
    """What a night was like.

    Attributes:
        rows: `tables.DRIFT`.
        alarms: the least probable first.
    """

    rows: pa.Table
    alarms: tuple[Alarm, ...]


def drift_of_night(output: str, dt: date, models: str, limits: AlarmLimits) -> NightDrift:
    """Judges a night; nothing is written: `results.drift_table.write_drift` makes the rows visible.

    The same rows, calibration sets and limits give the same result, also when rows of the night itself have been written
    before.

    Args:
        output: canonical URI of the results.
        dt: the night.
        models: canonical URI of the model store.
        limits: what is asked for.

    Raises:
        FileNotFoundError: nothing has ever been published there.
        ModelStoreError: a model is damaged; one that is gone is none.
    """
    store = ModelStore(models)
    past = _past(drift_before(output, dt, limits.days_back))
    observed: list[Observed] = []
    calibrations: dict[str, Calibration] = {}
    for category in categories_of_night(output, dt):
        published = rows_of_night(output, dt, category)
        versions = models_of_night(published)
        # of several versions the newest says what is usual; rows of such a night are compared with no other night
        calibration = _calibration(store, category, versions[-1]) if versions else None
        if calibration is not None:
            calibrations[category] = calibration
        observed += observed_of_night(category, published, calibration, limits.most_values)
    observed += _absent(observed, past)
    rows = judge(dt, observed, past, calibrations, limits)
    alarms = sorted((row for row in rows if row["verdict"] == ALARM), key=_urgency)
    table = pa.Table.from_pylist(rows, schema=DRIFT.schema)
    return NightDrift(table, tuple(map(_alarm, alarms)))


def _calibration(store: ModelStore, category: str, version: str) -> Calibration | None:
    if version not in store.versions(category):
        return None
    decision = store.record(category, version)["decision"]
    scores = store.calibration(category, version)["anomaly_score"].to_numpy()
    try:
        groups = int(decision.get("n_groups", len(scores)))
        return Calibration(scores, groups, float(decision["threshold"]), float(decision["review_threshold"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelStoreError(f"{category} {version}: the decision of its record is damaged: {error}") from error


def _past(rows: pa.Table) -> dict[Key, list[Past]]:
    """The nights before, by cell and measure; a night in which anything of a cell alarmed is not healthy for it."""
    past: dict[Key, list[Past]] = {}
    for part in _by_category(rows):
        nights = part.to_pylist()
        sick = {(row["dt"], row["attribute"], row["attribute_value"]) for row in nights if row["alarm"] is not None}
        for row in nights:
            observed = Observed(**{name: row[name] for name in _OBSERVED})
            healthy = (row["dt"], row["attribute"], row["attribute_value"]) not in sick
            night = Past(row["dt"], observed, healthy, "drift" in (row["alarm"] or "").split(","))
            past.setdefault(observed.key, []).append(night)
    return past


def _by_category(rows: pa.Table) -> Iterator[pa.Table]:
    """Slices of sorted rows."""
    start = 0
    for counted in pc.value_counts(rows["category"]).to_pylist():
        yield rows.slice(start, counted["counts"])
        start += counted["counts"]


def _absent(observed: Sequence[Observed], past: Mapping[Key, Sequence[Past]]) -> list[Observed]:
    """Cells that healthy nights had and tonight has not."""
    seen = {one.key for one in observed}
    return [
        Observed(*key, 0, 0.0)
        for key, nights in past.items()
        if key[3] == VOLUME and key not in seen and any(night.healthy and night.observed.value > 0 for night in nights)
    ]


def _urgency(row: Mapping[str, Any]) -> tuple[bool, float, str, str, str, str]:
    p_value = 1.0 if row["p_value"] is None else row["p_value"]
    return row["attribute"] != "", p_value, row["category"], row["attribute"], row["attribute_value"], row["measure"]


def _alarm(row: Mapping[str, Any]) -> Alarm:
    values = {name: row[name] for name in Alarm.__dataclass_fields__}
    return Alarm(**values | {"alarm": tuple(str(row["alarm"]).split(","))})


def place_of(category: str, attribute: str, attribute_value: str) -> str:
    """A category, or a part of it, in words."""
    return f"{category}, {attribute} {attribute_value}" if attribute else category
