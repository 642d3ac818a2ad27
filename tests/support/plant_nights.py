"""A plant on two lines, whose nights are published, judged and reported one after the other, without Ray."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from staged_runs import publish_staged, stage
from stored_models import a_model

from differnet_ray.archives.index import image_id
from differnet_ray.limits import AlarmLimits
from differnet_ray.pipeline.drift import NightDrift, drift_of_night
from differnet_ray.report.night_index import write_night_index
from differnet_ray.report.night_report import page_of_night, write_night_report
from differnet_ray.report.run_report import write_run_report
from differnet_ray.results.audits import AuditPlan, finish, new_audit_id, night_of, write_record
from differnet_ray.results.drift_table import verdicts_of, write_drift
from differnet_ray.results.ledger import Comparison, Ledger
from differnet_ray.results.runs import plan_run
from differnet_ray.storage.files import write_bytes
from differnet_ray.storage.locations import canonical, join
from differnet_ray.store.model_store import ModelStore
from differnet_ray.tables import CALIBRATION, MANIFEST, STAGED, conform

FIRST = date(2026, 1, 1)
THRESHOLD, REVIEW = 12.0, 6.0
LIMITS = AlarmLimits(false_alarms_per_year=4)
UNSCORED = ("unreadable", "unsupported", "too_large", "missing", "failed", "no_model")
Change = Callable[[int, str, dict[str, Any], np.random.Generator], dict[str, Any] | None]


class Plant:
    """Some categories on two lines. With an archive, flagged images are there, with their maps."""

    def __init__(
        self,
        root: Path,
        categories: Sequence[str] = ("lid", "screw"),
        *,
        n_images: int = 240,
        archive: Path | None = None,
        lines: tuple[str, str] = ("A", "B"),
    ) -> None:
        self.lines = lines
        self.output, self.models = canonical(str(root / "results")), canonical(str(root / "models"))
        self.reports = join(self.output, "reports")
        self.rng, self.store, self.n_images, self.archive = np.random.default_rng(0), ModelStore(self.models), n_images, archive
        self.models_in_use: dict[str, tuple[str, str]] = {}
        self.without_model: list[str] = []
        for category in categories:
            self.fit(category)

    def copied(self, root: Path) -> Plant:
        """Another plant, with the same history."""
        other = copy(self)
        other.rng = deepcopy(self.rng)
        other.output, other.models = (canonical(str(root / name)) for name in ("results", "models"))
        for mine, its in ((self.output, other.output), (self.models, other.models)):
            shutil.copytree(mine.removeprefix("file://"), its.removeprefix("file://"))
        other.reports, other.store = join(other.output, "reports"), ModelStore(other.models)
        other.models_in_use, other.without_model = dict(self.models_in_use), list(self.without_model)
        return other

    @property
    def versions(self) -> dict[str, str | None]:
        """Category to the version in use, or None where it has no model."""
        known = {category: version for category, (version, _) in self.models_in_use.items()}
        return known | dict.fromkeys(self.without_model)

    def fit(self, category: str) -> None:
        """Publishes a model whose scores of 200 good images are lognormal."""
        uris = [f"s3://plant/{category}/good/{n}.png" for n in range(200)]
        scores = np.exp(self.rng.standard_normal(200))
        columns = {"image_id": [image_id(uri) for uri in uris], "uri": uris, "anomaly_score": scores}
        columns |= {"score_std": scores / 10, "group": np.arange(200)}
        model = a_model(category, calibration=pa.table(columns, schema=CALIBRATION.schema))
        decision = replace(model.decision, threshold=THRESHOLD, review_threshold=REVIEW, n_images=200, n_groups=200)
        version = self.store.publish(replace(model, decision=decision))
        self.models_in_use[category] = (version, self.store.record(category, version)["digest"])

    def night(self, day: int, change: Change | None = None, limits: AlarmLimits = LIMITS, part: str = "") -> NightDrift:
        """Publishes images of a night and judges it; its rows of `drift` become visible."""
        dt = FIRST + timedelta(days=day)
        options = {"maps": "flagged"}
        self.run = plan_run(dt=dt, listing_digest=f"{day}{part}", models=self.models_in_use, options=options)
        manifest, rows = [], []
        for category, version in self.versions.items():
            shift = 0.05 * self.rng.standard_normal()
            for n in range(self.n_images + int(self.rng.integers(-10, 10))):
                uri = self._uri(category, dt, f"{part}{n:03d}", "AB"[n % 2])
                score = float(np.exp(shift + self.rng.standard_normal()))
                row = {"image_id": image_id(uri), "uri": uri, "category": category, "score": score, "error": None}
                row |= {"attributes": [("line", self.lines[n % 2]), ("name", str(n))]}
                changed = row if change is None else change(n, category, row, self.rng)
                if changed is None:
                    continue
                manifest.append({name: changed[name] for name in ("image_id", "uri", "category", "attributes")})
                rows.append(self._row(changed, dt, version))
        self.counts = Counter(row["category"] for row in rows)
        self.record: dict[str, Any] | None = None
        if rows:
            stage(self.output, self.run, conform(pa.Table.from_pylist(rows, schema=STAGED), STAGED))
            listed = conform(pa.Table.from_pylist(manifest, schema=MANIFEST.schema), MANIFEST.schema)
            self.record = publish_staged(self.output, self.run, listed)
        found = drift_of_night(self.output, dt, self.models, limits)
        write_drift(self.output, dt, found.rows)
        return found

    def audited(
        self,
        day: int,
        change: Change | None = None,
        limits: AlarmLimits = LIMITS,
        *,
        part: str = "",
        changes: Mapping[str, Mapping[str, int]] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> Path:
        """The same, with its pages and the record of its audit; returns the page of the night."""
        found = self.night(day, change, limits, part)
        dt, taken = self.run.dt, dict(self.counts)
        of_kind = {kind: {} for kind in ("new", "changed", "again", "late", "removed")} | {"new": taken} | (changes or {})
        inputs = (join(self.output, "..", "archive"),)
        plan = AuditPlan(
            audit_id=new_audit_id(dt),
            dt=dt,
            since=None,
            comparison=Comparison(taken, of_kind, True, sum(taken.values()), {}, sum(taken.values())),
            skipped={"hidden": 2},
            listing_digest=f"{day}{part}",
            models=self.models_in_use,
            options=dict(self.run.options),
            ledger=Ledger("", dt, inputs, {}, 1000 * (day + 1)),
            started_at=datetime(dt.year, dt.month, dt.day, 2, tzinfo=UTC).isoformat(),
        )
        if self.record is not None:
            page = join(self.reports, f"{self.run.run_id}.html")
            write_run_report(self.output, self.run.run_id, models=self.models, target=page, max_images=4)
        verdicts = Counter(verdicts_of(found.rows).values())
        alarms = [alarm.as_json() for alarm in found.alarms]
        record = write_record(self.output, plan, self.record, page_of_night(self.reports, dt), alarms, (), verdicts)
        write_bytes(join(night_of(self.output, dt), f"{plan.audit_id}.json"), json.dumps(record | dict(more or {})).encode())
        page = write_night_report(self.output, dt, self.reports, models=self.models)
        write_night_index(self.output, self.reports)
        finish(self.output, plan)
        return Path(page.removeprefix("file://"))

    def _uri(self, category: str, dt: date, name: str, line: str) -> str:
        if self.archive is None:
            return f"s3://plant/{category}/{dt}/{name}.png"
        return canonical(str(self.archive / line / str(dt) / category / f"{name}.png"))

    def _row(self, row: dict[str, Any], dt: date, version: str | None) -> dict[str, Any]:
        row = dict(row) | {"dt": dt, "run_id": self.run.run_id}
        score, error = row.pop("score"), row["error"]
        if version is None or error:
            status = error.split(":")[0] if error else "no_model"
            return row | {"status": status, "error": error or f"no_model: no model of {row['category']!r} in the store"}
        status = "anomalous" if score >= THRESHOLD else "review" if score >= REVIEW else "ok"
        row |= {"status": status, "anomaly_score": score, "model_version": version, "score_std": score / 10, "n_transforms": 64}
        row |= {"threshold": THRESHOLD, "review_threshold": REVIEW, "p_value": 1 / 201, "width": 96, "height": 96}
        if status != "ok" and self.archive is not None:
            self._draw(Path(row["uri"].removeprefix("file://")))
            row |= self._map()
        return row

    def _draw(self, path: Path) -> None:
        """A grey plate with grain and a bright scratch."""
        pixels = self.rng.normal(120, 8, (96, 96, 3)) + np.linspace(-30, 30, 96)[None, :, None]
        pixels[24:28, 24:48] = 240
        sink = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(sink, "PNG")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sink.getvalue())

    def _map(self) -> dict[str, Any]:
        field = np.abs(self.rng.normal(0.4, 0.2, (28, 28)))
        field[6:10, 6:15] += 3
        row = {"gradient_map": field.astype("<f2").tobytes(), "map_height": 28, "map_width": 28}
        return row | {"peak_x": 0.38, "peak_y": 0.27, "area_fraction": 0.05}


def only(category: str, line: str = "AB", **changes: Any) -> Change:
    """Changes the rows of a category and line; `score` is a function of the old one, `share` says of how many."""

    def change(n: int, of: str, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any] | None:
        if of != category or "AB"[n % 2] not in line or rng.random() > changes.get("share", 1.0):
            return row
        if changes.get("gone"):
            return None
        return row | {"score": changes.get("score", lambda x: x)(row["score"]), "error": changes.get("error")}

    return change


def both(*changes: Change) -> Change:
    """One change after the other."""

    def change(n: int, of: str, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any] | None:
        for one in changes:
            changed = one(n, of, row, rng)
            if changed is None:
                return None
            row = changed
        return row

    return change
