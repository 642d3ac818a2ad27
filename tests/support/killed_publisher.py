"""A publication in a process of its own, which says when it begins, so that it can be killed in the middle."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event

from staged_runs import LIBRARIES

from differnet_ray.results.publish import publish
from differnet_ray.results.runs import Run


def begin(output: str, run: Run) -> BaseProcess:
    """Returns a process that has begun to publish a staged run."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["differnet_ray.results.publish"])
    begun = context.Event()
    process = context.Process(target=_publish, args=(begun, output, run, dict(os.environ)))
    process.start()
    assert begun.wait(60)
    return process


def _publish(begun: Event, output: str, run: Run, environment: dict[str, str]) -> None:
    os.environ.update(environment)  # the fork server keeps the one that it was started with
    begun.set()
    publish(output, run, LIBRARIES)
