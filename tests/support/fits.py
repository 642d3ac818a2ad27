"""What the tests of fits without Ray share."""

from __future__ import annotations

from collections.abc import Callable

from differnet_ray.pipeline.fit_state import FittedCategory
from differnet_ray.store.stored_model import StoredModel

N, FOLDS = 12, 4
Run = Callable[..., tuple[FittedCategory, StoredModel]]


class Killed(BaseException):
    """What no handler of errors catches."""
