"""The actor behind the progress of a scoring job; it imports nothing, so that it starts at once."""

from __future__ import annotations

from collections.abc import Mapping


class StatusCounts:
    """Rows done so far, for people who watch; the published counts are counted from the rows."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, int]] = {}

    def add(self, counts: Mapping[str, Mapping[str, int]]) -> None:
        """Adds rows: category to status to how many."""
        for category, by_status in counts.items():
            known = self._counts.setdefault(category, {})
            for status, n in by_status.items():
                known[status] = known.get(status, 0) + n

    def counts(self) -> dict[str, dict[str, int]]:
        """Category to status to rows."""
        return self._counts
