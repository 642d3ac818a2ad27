"""Functions in processes of their own, side by side, each with its own context of the device.

The processes are forked before the device is touched: they share what is imported, and start at once.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import TypeVar

Result = TypeVar("Result")


def side_by_side(calls: Sequence[Callable[[], Result]]) -> list[Result | None]:
    """The results of the calls, in order; None where a process died."""
    context = multiprocessing.get_context("fork")
    running = []
    for call in calls:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_call, args=(call, theirs), daemon=True)
        process.start()
        theirs.close()
        running.append((process, ours))
    found: list[Result | None] = []
    for process, ours in running:
        try:
            found.append(ours.recv())
        except EOFError:
            found.append(None)
        process.join()
    return found


def _call(call: Callable[[], object], result: Connection) -> None:
    result.send(call())
