"""What Ray Data's actors are made with goes to them by value: the one place that reaches into its actor pools.

Ray Data 2.60 gives each actor of a pool its context and its function as references into the object store. Ray says of an actor
that may start again, as an error on the driver's console, that it could not do so once such references are lost
(ray-project/ray#57733). The values are a few kilobytes. By value there is nothing to lose.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray import cloudpickle
from ray.data._internal.execution.operators.actor_pool_map_operator import ActorPoolMapOperator


class _Pickled:
    """A value that arrives as itself. Actors and objects that it refers to stay as long as the driver does."""

    def __init__(self, value: Any) -> None:
        self._bytes = cloudpickle.dumps(value)

    def __reduce__(self) -> tuple[Callable[[bytes], Any], tuple[bytes]]:
        return cloudpickle.loads, (self._bytes,)


def pass_by_value() -> None:
    """Has the actor pools of this process's plans do so."""
    for reference, value in {
        "_data_context_ref": lambda operator: operator.data_context,
        "_map_transformer_ref": lambda operator: _Pickled(operator._map_transformer),
    }.items():
        setattr(ActorPoolMapOperator, reference, property(value))
