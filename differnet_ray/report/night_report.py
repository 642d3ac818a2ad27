"""The report of a night: its verdict, what alarmed and why, every category night by night, the worst images, the lineage.

It is made of the rows of `drift` and `scores`, and of the records of the night's audits: the same night gives the same page,
also when it is audited again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from differnet_ray.report.night_images import NightImages, read_images
from differnet_ray.report.night_rows import CHARTS, VERDICT_WORDS, NightRows, read_night
from differnet_ray.report.page import LISTED, write_page
from differnet_ray.results.audits import audits_of, no_category_of
from differnet_ray.results.drift_table import VERDICTS
from differnet_ray.results.housekeeping import NIGHT_INDEX
from differnet_ray.results.runs import NAMED_REASONS
from differnet_ray.storage.files import list_level
from differnet_ray.storage.locations import FILE, join, name_of
from differnet_ray.tables import SCORED_STATUSES, STATUSES

NAMED, LETTERS = 5, 100  # categories in the sentence of the verdict, and letters of their names, at most
MODELS_LISTED = 200  # versions and digests in the lineage
CHANGES = ("new", "changed", "again", "late", "removed")


@dataclass(frozen=True)
class Verdict:
    """A night in one sentence; `state` is alarm, muted, quiet, unjudged or empty."""

    state: str
    sentence: str
    more: Sequence[str]


@dataclass(frozen=True)
class CategoryLine:
    """A category, or several together.

    Attributes:
        category: its name.
        verdict: of the night; empty of several.
        counts: status to images.
        changes: kind of change to images.
    """

    category: str
    verdict: str
    counts: Mapping[str, int]
    changes: Mapping[str, int]

    @property
    def n_scored(self) -> int:
        """Images with a score."""
        return sum(self.counts.get(status, 0) for status in SCORED_STATUSES)

    @property
    def n_images(self) -> int:
        """Rows of the day."""
        return sum(self.counts.values())


def page_of_night(reports: str, dt: date | str) -> str:
    """URI of the page of a night."""
    return join(reports, f"night-{dt}.html")


def pages_in(reports: str) -> set[str]:
    """Names of the pages in a folder."""
    try:
        return {name_of(found.uri) for found in list_level(reports) if not isinstance(found, str)}
    except FileNotFoundError:
        return set()


def write_night_report(output: str, dt: date, reports: str, *, models: str | None = None) -> str:
    """Writes the page of a night, which links the one over all nights (`night_index.py`) beside it.

    Args:
        output: canonical URI of the results.
        dt: the night.
        reports: canonical URI of the folder of the pages; those that lie there are linked.
        models: canonical URI of the model store, for the grey range of pictures; None does without.

    Returns:
        The URI of the page.

    Raises:
        StorageError: the results cannot be read, or the page cannot be written.
    """
    night = read_night(output, dt)
    images = read_images(output, dt, night.verdicts, models)
    audits = audits_of(output, dt)
    lines = _lines(night, images, audits)
    pages = pages_in(reports)
    earlier = [name for day in night.matrix.nights[:-1] if (name := name_of(page_of_night(reports, day))) in pages]
    versions = {
        (category, run["models"][category]): run["model_digests"].get(category, "")
        for run in images.runs
        for category in sorted(run["models"])
    }
    alarms = [alarm for of_category in night.alarms.values() for alarm in of_category]
    drawn = {category: [alarm for alarm in found if alarm.chart] for category, found in night.alarms.items()}
    target = page_of_night(reports, dt)
    write_page(
        target,
        "night_report.html.j2",
        more_style="night.css",
        dt=dt,
        verdict=verdict_of(night, images, audits),
        night=night,
        drawn={category: found for category, found in drawn.items() if found},
        not_drawn=[alarm for alarm in alarms if not alarm.chart],
        charts=CHARTS,
        images=images,
        audits=audits,
        proposals=[proposal for audit in audits[-1:] for proposal in audit.get("proposals") or ()],
        changes=CHANGES,
        statuses=[status for status in STATUSES if status in SCORED_STATUSES or images.totals[status]],
        lines=lines[:LISTED],
        rest=_together(f"{len(lines) - LISTED:,} more categories", lines[LISTED:]),
        all_lines=_together("all", lines),
        n_lines=len(lines),
        listed=LISTED,
        verdicts=[VERDICT_WORDS[verdict] for verdict in dict.fromkeys(line.verdict for line in lines)],
        verdict_words=VERDICT_WORDS,
        skipped=audits[-1]["skipped"] if audits else {},
        no_category=[no_category_of(output, audit) for audit in audits if any(map(audit["skipped"].get, NAMED_REASONS))],
        versions=list(versions.items())[:MODELS_LISTED],
        n_versions=len(versions),
        linked={run["run_id"] for run in images.runs if f"{run['run_id']}.html" in pages},
        pages=pages,
        previous=earlier[-1] if earlier else None,
        index=NIGHT_INDEX,
        output=output,
        models=models,
        drift_sql=_sql(output, "drift", dt, "verdict IN ('alarm', 'muted')", "verdict, p_value, category"),
        states_sql=_sql(output, "drift", dt, "attribute = '' AND measure = 'images'", "category"),
        not_scored_sql=_sql(output, "scores", dt, "anomaly_score IS NULL", "category, status, uri, member"),
    )
    return target


def verdict_of(night: NightRows, images: NightImages, audits: Sequence[Mapping[str, Any]]) -> Verdict:
    """The night in one sentence, and what else has to be known of it."""
    n_images, states = sum(images.totals.values()), Counter(night.verdicts.values())
    more = []
    if night.alarms:
        state = "alarm"
        where = f"{len(night.alarms):,} of {_categories(len(night.verdicts))}"
        sentence = f"{_counted(night.n_alarms, 'alarm')} in {where}: {_named(night.alarms)}."
    elif not n_images:
        state = "empty"
        sentence = "No images came." if audits or night.matrix.n_categories else "Nothing has ever been published: no night."
    elif not states["ok"] and not states["muted"]:
        state, sentence = (
            "unjudged",
            "Not judged yet: too few healthy nights before this one.",
        )
    else:
        state = "muted" if states["muted"] else "quiet"
        sentence = f"Nothing alarms: {_categories(states['ok'])} as usual."
    if night.alarms and not n_images:
        more.append("No images came.")
    if night.muted:
        more.append(f"{_counted(len(night.muted), 'alarm')} muted.")
    if states["no_images"]:
        more.append(f"{_categories(states['no_images'])} without images.")
    if states["no_reference"] and state != "unjudged":
        more.append(f"{_categories(states['no_reference'])} cannot be judged yet.")
    if images.n_not_scored:
        more.append(f"{_counted(images.n_not_scored, 'image')} could not be scored.")
    if images.no_model:
        more.append(f"{_categories(len(images.no_model))} without a model: {_named(images.no_model)}.")
    return Verdict(state, sentence, more)


def _counted(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _categories(n: int) -> str:
    return f"{n:,} {'category' if n == 1 else 'categories'}"


def _named(categories: Iterable[str]) -> str:
    names = list(categories)
    named = next((n for n in range(min(NAMED, len(names)), 1, -1) if len("".join(names[:n])) <= LETTERS), 1)
    more = f" and {len(names) - named:,} more" if len(names) > named else ""
    return f"{', '.join(names[:named])}{more}"


def _lines(night: NightRows, images: NightImages, audits: Sequence[Mapping[str, Any]]) -> list[CategoryLine]:
    """All categories of the night, the gravest verdict first; of the same, those of which something is to be said."""
    changes: dict[str, Counter[str]] = {}
    for audit in audits:
        for kind in CHANGES:
            for category, n in audit["changes"].get(kind, {}).items():
                changes.setdefault(category, Counter())[kind] += n
    lines = [
        CategoryLine(c, night.verdicts.get(c, "no_reference"), images.counts.get(c, Counter()), changes.get(c, Counter()))
        for c in {*night.verdicts, *images.counts, *changes}
    ]

    def order(line: CategoryLine) -> tuple[int, bool, str]:
        unusual = line.n_images - line.n_scored + sum(line.changes.get(kind, 0) for kind in CHANGES if kind != "new")
        return VERDICTS.index(line.verdict), not unusual, line.category

    return sorted(lines, key=order)


def _together(title: str, lines: Sequence[CategoryLine]) -> CategoryLine | None:
    if not lines:
        return None
    counts, changes = Counter[str](), Counter[str]()
    for line in lines:
        counts.update(line.counts)
        changes.update(line.changes)
    return CategoryLine(title, "", counts, changes)


def _sql(output: str, table: str, dt: date, condition: str, order: str) -> list[str]:
    """The lines of a query that finds rows of a night with DuckDB; for people, nothing here runs it."""
    files = join(output.removeprefix(FILE), table, f"dt={dt}", "**", "*.parquet").replace("'", "''")
    return [
        f"SELECT * FROM read_parquet('{files}', hive_partitioning = true)",  # noqa: S608
        f"WHERE {condition}",
        f"ORDER BY {order};",
    ]
