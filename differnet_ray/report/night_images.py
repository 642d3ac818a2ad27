"""The images of a night, of all runs with rows of its day: how many, the worst with their maps, those without a score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from differnet_ray import results
from differnet_ray.config import GreyRange, Recipe
from differnet_ray.errors import ConfigError, ModelStoreError, StorageError
from differnet_ray.report.page import LISTED
from differnet_ray.report.pictures import Picture, pictures
from differnet_ray.report.run_rows import ScoreRow, read_rows
from differnet_ray.results.drift_table import VERDICTS
from differnet_ray.results.runs import run_of
from differnet_ray.store.model_store import ModelStore
from differnet_ray.tables import SCORED_STATUSES

MAX_PICTURES = 60  # of all categories: about 2 MB of page
OF_ALARMING, OF_OTHERS = 6, 2  # at most of each category
NO_MODEL = "no_model"


@dataclass(frozen=True)
class CategoryImages:
    """Flagged images of one category, the worst first; `n_flagged` is all of them."""

    category: str
    verdict: str
    n_flagged: int
    pictures: Sequence[Picture]


@dataclass
class NightImages:
    """What a night published.

    Attributes:
        runs: records of the runs that have rows of the day, the oldest first.
        gone: runs that have such rows, and whose file is gone.
        counts: category to status to rows.
        shown: categories with pictures: those that alarm first, then by their worst image.
        n_flagged: flagged images of all categories.
        not_scored: the first images without a score, those of categories without a model left out.
        n_not_scored: all of those.
        no_model: category without a model to its images.
    """

    runs: list[dict[str, Any]] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    shown: list[CategoryImages] = field(default_factory=list)
    n_flagged: int = 0
    not_scored: list[ScoreRow] = field(default_factory=list)
    n_not_scored: int = 0
    no_model: dict[str, int] = field(default_factory=dict)

    @property
    def totals(self) -> Counter[str]:
        """Rows of all categories by status."""
        return sum(self.counts.values(), Counter())


def read_images(output: str, dt: date, verdicts: Mapping[str, str], models: str | None) -> NightImages:
    """Reads the published rows of a day, and the worst of their images.

    Args:
        output: canonical URI of the results.
        dt: the day.
        verdicts: category to its verdict.
        models: canonical URI of the model store, for the grey range of pictures; None does without.
    """
    found = NightImages()
    worst: dict[str, list[tuple[ScoreRow, dict[str, Any]]]] = {}
    for run_id in _runs_of_day(output, dt):
        try:
            run = results.run(output, run_id)
        except (ConfigError, StorageError):
            found.gone.append(run_id)
            continue
        found.runs.append(run)
        rows = read_rows(
            output, str(dt), run_id, sorted(run["category_counts"]), worst=OF_ALARMING, listed=LISTED, unlisted=[NO_MODEL]
        )
        found.not_scored += rows.not_scored
        for category, of_category in rows.categories.items():
            found.counts.setdefault(category, Counter()).update(of_category.counts)
            worst.setdefault(category, []).extend((row, run) for row in of_category.worst)
    found.runs.sort(key=lambda run: str(run["finished_at"]))
    found.not_scored = sorted(found.not_scored, key=lambda row: (row.category, row.status, row.uri, row.member or ""))[:LISTED]
    found.no_model = {category: counts[NO_MODEL] for category, counts in sorted(found.counts.items()) if counts[NO_MODEL]}
    totals = found.totals
    found.n_flagged = totals["review"] + totals["anomalous"]
    found.n_not_scored = sum(n for status, n in totals.items() if status not in (*SCORED_STATUSES, NO_MODEL))
    found.shown = [
        _shown(output, dt, category, found.counts[category], verdicts.get(category, "no_reference"), chosen, models)
        for category, chosen in _chosen(worst, verdicts)
    ]
    return found


def _runs_of_day(output: str, dt: date) -> list[str]:
    try:
        return sorted({run_of(file.path) for file in results.scores(output, date=dt).get_fragments()})
    except FileNotFoundError:  # nothing has ever been published
        return []


def _severity(row: ScoreRow) -> float:
    return -1.0 if row.severity is None else row.severity


def _chosen(
    worst: Mapping[str, list[tuple[ScoreRow, dict[str, Any]]]], verdicts: Mapping[str, str]
) -> list[tuple[str, list[tuple[ScoreRow, dict[str, Any]]]]]:
    """Of the worst images of each category as many as the page shows."""
    ranked = {
        category: sorted(found, key=lambda pair: (-_severity(pair[0]), pair[0].uri, pair[0].member or ""))
        for category, found in worst.items()
        if found
    }

    def rank(category: str) -> tuple[int, float, str]:
        verdict = verdicts.get(category, "no_reference")
        return VERDICTS.index(verdict) if verdict in ("alarm", "muted") else 2, -_severity(ranked[category][0][0]), category

    chosen, left = [], MAX_PICTURES
    for category in sorted(ranked, key=rank):
        pairs = ranked[category][: min(left, OF_ALARMING if verdicts.get(category) == "alarm" else OF_OTHERS)]
        left -= len(pairs)
        if pairs:
            chosen.append((category, pairs))
    return chosen


def _shown(
    output: str,
    dt: date,
    category: str,
    counts: Mapping[str, int],
    verdict: str,
    chosen: Sequence[tuple[ScoreRow, dict[str, Any]]],
    models: str | None,
) -> CategoryImages:
    made: dict[str, Picture] = {}
    for run in {run["run_id"]: run for _, run in chosen}.values():
        rows = [row for row, of in chosen if of["run_id"] == run["run_id"]]
        shown = pictures(output, str(dt), run["run_id"], category, rows, _grey_range(models, run, category))
        made |= {picture.row.image_id: picture for picture in shown}
    n_flagged = counts["review"] + counts["anomalous"]
    return CategoryImages(category, verdict, n_flagged, [made[row.image_id] for row, _ in chosen])


def _grey_range(models: str | None, run: Mapping[str, Any], category: str) -> GreyRange | None:
    version = run["models"].get(category)
    if models is None or version is None:
        return None
    try:
        return Recipe.from_dict(ModelStore(models).record(category, version)["recipe"]).images.grey_range
    except (ModelStoreError, StorageError):  # a picture is no reason to have no page
        return None
