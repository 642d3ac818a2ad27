"""The cluster: connecting to it, what a job takes of it, and looking at a running job from the driver."""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from differnet_ray.errors import DifferNetError

T = TypeVar("T")
U = TypeVar("U")
THREADS_PER_ACTOR = 4  # convolutions of one image stop gaining from more


@contextmanager
def cluster() -> Iterator[None]:
    """Connects to the cluster that `RAY_ADDRESS` or the surrounding Ray job names, else starts a local one.

    A connection that is there already is used and left open. In the block SIGTERM interrupts, as Ctrl-C does, and what Ray
    prints goes to stderr: stdout is for results.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    local: dict[str, Any] = {}
    if address == "local":  # two CPUs at least: one for the actor that drops finished rows, one for reads
        local = {"include_dashboard": False, "num_cpus": max(2, os.cpu_count() or 1)}
    if os.environ.get("DIFFERNET_LOG") == "json":  # of Ray itself, of actors and of tasks, in the files of the nodes as well
        local["logging_config"] = ray.LoggingConfig(encoding="JSON", log_level="WARNING")
    ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **local)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray's own ends the process at once
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)
        ray.shutdown()


def beside_driver(kind: type, *arguments: Any) -> Any:
    """An actor that takes no CPU, on the driver's own node: it lives as long as the driver, whatever other nodes do."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(num_cpus=0)(kind)
    return actor.options(scheduling_strategy=here).remote(*arguments)


def cluster_size() -> tuple[int, float]:
    """CPUs, at least 1, and GPUs of the cluster."""
    resources = ray.cluster_resources()
    return max(1, int(resources.get("CPU", 1))), float(resources.get("GPU", 0))


@dataclass(frozen=True)
class ScorePlan:
    """The actors of a scoring job.

    Attributes:
        min_actors, max_actors: number of scoring actors, between which it follows the work; and at most so many map actors.
        threads: images that each works on at a time.
        score_gpus, map_gpus: share of a GPU of each actor; 0 on a cluster without.
    """

    min_actors: int
    max_actors: int
    threads: int
    score_gpus: float
    map_gpus: float


def plan_score(actors: tuple[int, int] | None = None) -> ScorePlan:
    """A plan for the cluster as it is.

    Actors reserve no CPUs: one that has lost its node could not start again where all CPUs are taken, and its work would wait
    for ever, as it would where they leave none to reads and writes.

    Args:
        actors: least and largest number of scoring actors; None: up to one per GPU, or up to one per four cores where there
            is no GPU.
    """
    cores, gpus = cluster_size()
    if gpus >= 1:
        least, most = actors or (1, int(gpus))
        share = 1 / math.ceil(most / int(gpus))  # of a GPU, for a scoring actor and a map actor
        return ScorePlan(least, most, threads=1, score_gpus=0.75 * share, map_gpus=0.25 * share)
    threads = min(THREADS_PER_ACTOR, max(int(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["Alive"]))
    least, most = actors or (1, max(1, cores // threads))
    if actors is not None:
        threads = max(1, min(threads, cores // most))
    return ScorePlan(least, most, threads, score_gpus=0, map_gpus=0)


@dataclass(frozen=True)
class FitPlan:
    """The workers of a fitting job, each on one node, with whole CPUs and a share of a GPU."""

    n_workers: int
    cpus: int
    gpus: float


def plan_fit(n_categories: int, *, memory: int, max_parallel: int | None, gpus_per_fit: float | None) -> FitPlan:
    """As many workers as there are categories, at most what the cluster holds.

    Args:
        n_categories: how many are to be fitted.
        memory: bytes that a fit takes; however many that are, a node holds one.
        max_parallel: a lower limit than the cluster's.
        gpus_per_fit: share of a GPU for each, or several whole ones; None: one where there are GPUs. Without any: CPUs.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    has_gpus = any(node.get("GPU") for node in nodes)
    share = 0.0 if not has_gpus else 1.0 if gpus_per_fit is None else gpus_per_fit

    def room(cpus: int) -> int:
        """Workers of so many CPUs that the nodes hold, each on one of them."""
        return sum(
            min(
                int(node.get("CPU", 0) / cpus),
                int(node.get("GPU", 0) / share + 1e-9) if share else n_categories,
                max(1, int(node.get("memory", memory) / memory)),
            )
            for node in nodes
        )

    n_workers = max(1, min(n_categories, room(1), max_parallel or n_categories))
    most = max(1, *(int(node.get("CPU", 0)) for node in nodes))
    cpus = next((cpus for cpus in range(most, 1, -1) if room(cpus) >= n_workers), 1)
    return FitPlan(n_workers, cpus, share)


SECONDS_TO_STOP = 60.0
RAYS_ADVICE = "Failed to apply UDF transform"  # to programmers; Ray Data adds it to the message


def as_tasks(function: Callable[[U], T], items: Iterable[U]) -> list[T]:
    """What `map` gives, each call as a Ray task of one CPU; errors as of `own_errors`."""
    shared = ray.put(function)
    task: Any = ray.remote(num_cpus=1)(_call)
    calls = [task.remote(shared, item) for item in items]
    try:
        with own_errors("the job"):
            found: list[T] = ray.get(calls)
    except BaseException:  # none must go on when the caller tidies up
        for call in calls:
            ray.cancel(call, force=True)
        ray.wait(calls, num_returns=len(calls), timeout=SECONDS_TO_STOP)
        raise
    return found


def _call(function: Callable[[U], T], item: U) -> T:
    return function(item)


@contextmanager
def own_errors(what: str) -> Iterator[None]:
    """Lets errors of this package out of the Ray tasks that raised them; others are named as failures of `what`.

    Raises:
        DifferNetError: a task failed, or its worker died again and again.
    """
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, DifferNetError):
            raise error.cause from error
        said = getattr(error.cause, "strerror", None) or str(error.cause or error)
        said = said.split(RAYS_ADVICE)[0].strip(" \n:'\"")
        raise DifferNetError(f"{what} failed: {said}; mend it and run the same command again") from error
    except ray.exceptions.RayError as error:
        raise DifferNetError(f"{what} failed: {error}") from error


@contextmanager
def watched(look: Callable[[], T], show: Callable[[T], None], *, seconds: float = 0.5) -> Iterator[None]:
    """While the block runs, shows what `look` returns every so often, and once more at the end.

    A look that fails is skipped: progress is no reason for a job to fail.
    """
    stop = threading.Event()

    def glance() -> None:
        try:
            show(look())
        except ray.exceptions.RayError:
            return

    def watch() -> None:
        while not stop.wait(seconds):
            glance()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        glance()
