"""The actor behind the progress of a scoring job; it imports nothing, so that it starts at once."""

from __future__ import annotations

from collections.abc import Mapping


class StatusCounts:
    """Rows done so far, by status, for people who watch; the published counts are counted from the rows."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def add(self, counts: Mapping[str, int]) -> None:
        """Adds the rows of a batch."""
        for status, n in counts.items():
            self._counts[status] = self._counts.get(status, 0) + n

    def counts(self) -> dict[str, int]:
        """Status to rows."""
        return self._counts
