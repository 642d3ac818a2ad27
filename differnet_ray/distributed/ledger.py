"""The actor that a scoring job keeps its accounts in; it imports nothing, so that it starts at once."""

from __future__ import annotations

from collections.abc import Mapping


class Ledger:
    """Rows done so far, for people who watch (the published counts are counted from the rows), and work that did not end."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, int]] = {}
        self._begun: dict[str, int] = {}
        self._counted: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def add(self, counts: Mapping[str, Mapping[str, int]]) -> None:
        """Adds rows: category to status to how many."""
        for category, by_status in counts.items():
            known = self._counts.setdefault(category, {})
            for status, n in by_status.items():
                known[status] = known.get(status, 0) + n

    def counts(self) -> dict[str, dict[str, int]]:
        """Category to status to rows."""
        return self._counts

    def count(self, metric: str, labels: tuple[tuple[str, str], ...], value: float) -> None:
        """Adds to what is counted under the name of a metric and its labels."""
        key = metric, labels
        self._counted[key] = self._counted.get(key, 0) + value

    def counted(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """What has been counted."""
        return self._counted

    def begin(self, work: str) -> int:
        """Notes that a piece of work begins; returns how often it began before and did not end, as its process died."""
        deaths = self._begun.get(work, 0)
        self._begun[work] = deaths + 1
        return deaths

    def end(self, work: str) -> None:
        """Notes that it ended."""
        self._begun.pop(work, None)
