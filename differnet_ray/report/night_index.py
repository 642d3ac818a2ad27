"""The page over all nights: a line for each, the newest first. It is made of the records of the audits alone."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from typing import Any

from differnet_ray.report.night_report import page_of_night, pages_in
from differnet_ray.report.night_rows import VERDICT_WORDS
from differnet_ray.report.page import LISTED, write_page
from differnet_ray.results.audits import audited_nights, audits_of
from differnet_ray.results.housekeeping import NIGHT_INDEX
from differnet_ray.storage.locations import join, name_of
from differnet_ray.tables import SCORED_STATUSES

FIRST_ALARM = 110  # letters of it
READ_THREADS = 16  # a record is a small file, which a store of objects takes its time to give


@dataclass(frozen=True)
class NightLine:
    """A night, as its audits were recorded.

    Attributes:
        dt: the night.
        verdict: the gravest of its categories, `VERDICT_WORDS`.
        alarms: in words; of several audits the last one's, which judged all rows of the night.
        counts: status to images, of all audits.
        changes: kind of change to images, of all audits.
        page: name of its page, or None where it has none.
    """

    dt: date
    verdict: str
    alarms: Sequence[str]
    counts: Mapping[str, int]
    changes: Mapping[str, int]
    page: str | None

    @property
    def first(self) -> str:
        """The beginning of the first alarm; the page of the night has all of it."""
        return textwrap.shorten(self.alarms[0], FIRST_ALARM, placeholder=" …") if self.alarms else ""

    @property
    def n_images(self) -> int:
        """Images that were taken."""
        return sum(self.counts.values())

    @property
    def n_not_scored(self) -> int:
        """Of those, without a score."""
        return self.n_images - sum(self.counts[status] for status in SCORED_STATUSES)


def write_night_index(output: str, reports: str) -> str:
    """Writes the page over all nights.

    Args:
        output: canonical URI of the results.
        reports: canonical URI of the folder of the pages.

    Returns:
        The URI of the page.

    Raises:
        StorageError: the records cannot be read, or the page cannot be written.
    """
    nights = audited_nights(output)
    pages = pages_in(reports)

    def line(dt: date) -> NightLine:
        page = name_of(page_of_night(reports, dt))
        return _line(dt, audits_of(output, dt), page if page in pages else None)

    with ThreadPoolExecutor(READ_THREADS) as threads:
        lines = list(threads.map(line, sorted(nights, reverse=True)[:LISTED]))
    target = join(reports, NIGHT_INDEX)
    write_page(
        target,
        "night_index.html.j2",
        more_style="night.css",
        lines=lines,
        n_nights=len(nights),
        output=output,
        verdict_words=VERDICT_WORDS,
        verdicts=sorted({VERDICT_WORDS[line.verdict] for line in lines}),
    )
    return target


def _line(dt: date, audits: Sequence[Mapping[str, Any]], page: str | None) -> NightLine:
    counts, changes = Counter[str](), Counter[str]()
    for audit in audits:
        counts.update(audit["counts"])
        changes.update({kind: sum(of_kind.values()) for kind, of_kind in audit["changes"].items()})
    alarms = [alarm["text"] for audit in audits[-1:] for alarm in audit["alarms"]]
    verdicts = audits[-1].get("verdicts", {}) if audits else {}
    return NightLine(dt, _verdict(alarms, verdicts, counts), alarms, counts, changes, page)


def _verdict(alarms: Sequence[str], verdicts: Mapping[str, int], counts: Counter[str]) -> str:
    if alarms:
        return "alarm"
    if not counts.total():
        return "no_images"
    if verdicts.get("muted"):
        return "muted"
    return "no_reference" if verdicts.keys() <= {"no_reference", "no_images"} and verdicts else "ok"
