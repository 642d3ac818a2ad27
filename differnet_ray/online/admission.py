"""How many images may be with the scorers at a time: what is too much is told so at once, and not made to wait."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from differnet_ray.queries import Problem


class Admission:
    """So many places.

    Args:
        places: images.
        tell: called with the number of those that are taken.
    """

    def __init__(self, places: int, tell: Callable[[float], object]) -> None:
        self._places, self._tell, self._taken = places, tell, 0

    def check(self, n: int) -> None:
        """Refuses where there is no place for so many: before a body is taken in that nobody could score.

        Raises:
            Problem: 429.
        """
        if self._taken + n > self._places:
            raise Problem(429, "too many images wait to be scored", retry_after=1)

    @asynccontextmanager
    async def enter(self, n: int) -> AsyncIterator[None]:
        """Takes so many places while the block runs.

        Raises:
            Problem: 429.
        """
        self.check(n)
        self._taken += n
        self._tell(self._taken)
        try:
            yield
        finally:
            self._taken -= n
            self._tell(self._taken)
