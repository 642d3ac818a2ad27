"""Threads that work ahead."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from differnet_ray.threads import map_ahead


def test_threads_work_in_order_and_take_only_a_few_items_ahead() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for i in range(50):
            taken.append(i)
            yield i

    results = map_ahead(lambda i: 2 * i, items(), 3)
    for i in range(20):
        assert next(results) == 2 * i
        assert len(taken) <= i + 1 + 2 * 3
    assert list(results) == [2 * i for i in range(20, 50)]
    with pytest.raises(ZeroDivisionError):
        list(map_ahead(lambda i: 1 // (i - 3), range(9), 2))
