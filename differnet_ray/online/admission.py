"""How many images may be with the scorers at a time: what is too much is told so at once, and not made to wait."""

from __future__ import annotations

import asyncio
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
        self._places, self._tell, self._taken, self._open = places, tell, 0, True

    def check(self, n: int) -> None:
        """Refuses where there is no place for so many: before a body is taken in that nobody could score.

        Raises:
            Problem: 429, or 503 where it is closed.
        """
        if not self._open:
            raise Problem(503, "the endpoint ends", retry_after=5)
        if self._taken + n > self._places:
            raise Problem(429, "too many images wait to be scored", retry_after=1)

    @asynccontextmanager
    async def enter(self, n: int) -> AsyncIterator[None]:
        """Takes so many places while the block runs; raises as `check`."""
        self.check(n)
        self._taken += n
        self._tell(self._taken)
        try:
            yield
        finally:
            self._taken -= n
            self._tell(self._taken)

    async def close(self) -> None:
        """Lets no one in any more, and waits until all have left."""
        self._open = False
        while self._taken:
            await asyncio.sleep(0.02)
