"""Fitting many categories at once: one Ray Train run whose workers lease categories from a queue actor.

A category that cannot be fitted is reported with its reason and does not stop the others. When a worker dies, Ray Train
starts the whole group again, on what is left of the cluster; every category then goes on at its last checkpoint.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import ray
import ray.train
import torch
import torch.distributed
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from differnet_ray.distributed.fit_queue import FitQueue
from differnet_ray.distributed.resources import FitPlan, beside_driver, watched
from differnet_ray.errors import DifferNetError, StorageError
from differnet_ray.pipeline.fit_category import FitJob, fit_category
from differnet_ray.pipeline.fit_flows import Effort
from differnet_ray.pipeline.fit_state import DONE, FAILED, FITTED, MAX_DEATHS, UNCHANGED, CategoryState, FittedCategory
from differnet_ray.storage.files import arrow_filesystem, delete, exists
from differnet_ray.storage.locations import join
from differnet_ray.store.fit_work import WORK_FOLDER, FitWork
from differnet_ray.store.model_store import ModelStore

LOOKUPS = 16  # threads that look for models of an earlier run
SECONDS_BETWEEN_ASKING = 0.5
SECONDS_BETWEEN_NEWS = 0.2  # a small flow has a hundred epochs a second: telling of each would take longer than they do
NODES_LOST = 100  # in one run; a category that kills its worker is given up before it counts here
SECONDS_BETWEEN_RESIZES = 3600.0  # a resized group goes on from checkpoints, so it is not worth doing often


def finished_before(job: FitJob) -> dict[str, CategoryState]:
    """Categories that an earlier run of the same job has fitted: same listing, options and code.

    A run that was killed between the last two writes of a publication is put right.
    """
    store = ModelStore(job.models)

    def look(category: str) -> CategoryState | None:
        fingerprint = job.fingerprint(category)
        try:
            record = store.find(category, fingerprint)
            if record is None:
                return None
            work = FitWork(job.models, category, fingerprint, job.scratch)
            if exists(work.uri):
                store.promote(category, record["version"])
                work.delete()
        except DifferNetError:  # its fit will meet the same, and say so without stopping the others
            return None
        return CategoryState(UNCHANGED, result=FittedCategory.of_record(record))

    categories = job.listing.categories
    with ThreadPoolExecutor(LOOKUPS) as pool:
        found = zip(categories, pool.map(look, categories), strict=True)
        return {category: state for category, state in found if state is not None}


def fit_categories(
    job: FitJob, categories: list[str], plan: FitPlan, on_progress: Callable[[Mapping[str, CategoryState]], None]
) -> dict[str, CategoryState]:
    """Fits and publishes categories of the job.

    Args:
        job: what to fit.
        categories: which of it.
        plan: the workers.
        on_progress: shown the state of the categories about twice a second.

    Returns:
        The final state of every category, `fitted` or `failed`.
    """
    queue = beside_driver(FitQueue, categories)
    # Named after the whole job, so that the same command finds, and removes, what a killed run left
    name = hashlib.sha256("".join(map(job.fingerprint, job.listing.categories)).encode()).hexdigest()[:16]
    run = join(job.models, WORK_FOLDER, f"train-{name}")
    filesystem, path = arrow_filesystem(run)
    # After a node is lost Train first asks for as many workers as before, and for fewer only when it has waited so long
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "30")
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"queue": queue, "job": ray.put(job), "plan": plan},
        torch_config=TorchConfig(backend="gloo"),  # NCCL refuses several workers on one GPU
        scaling_config=ScalingConfig(
            num_workers=(1, plan.n_workers) if plan.n_workers > 1 else 1,  # type: ignore[arg-type]  # of Train v2
            use_gpu=plan.gpus > 0,
            resources_per_worker={"CPU": plan.cpus} | ({"GPU": plan.gpus} if plan.gpus else {}),
            elastic_resize_monitor_interval_s=SECONDS_BETWEEN_RESIZES,  # type: ignore[call-arg]  # of Train v2
        ),
        run_config=RunConfig(
            name="fit",
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=NODES_LOST + MAX_DEATHS * len(categories)),
        ),
    )
    reason = "no worker was left"
    try:
        with watched(lambda: ray.get(queue.states.remote()), on_progress), _interruptible():
            trainer.fit()
    except ray.train.TrainingFailedError as error:  # what was published stays: the table says the rest
        reason = str(error).strip().splitlines()[-1]
    finally:
        states: dict[str, CategoryState] = ray.get(queue.states.remote())
        ray.kill(queue)
        with suppress(StorageError):  # what remains is only in the way
            delete(run)
    return {
        category: state
        if state.status in DONE
        else replace(state, status=FAILED, error=f"the run ended before it ({reason}): run the same command again")
        for category, state in states.items()
    }


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ray Train ends the process with 0 when it is interrupted: here that is an interruption again."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        signal.signal(signal.SIGINT, handler)


def _worker(config: dict[str, Any]) -> None:
    torch.set_num_threads(1)  # sums depend on how many threads share them; images are computed side by side instead
    queue, job = config["queue"], ray.get(config["job"])
    group = [uuid.uuid4().hex]
    torch.distributed.broadcast_object_list(group, src=0)
    me = f"{socket.gethostname()}:{os.getpid()}"
    while True:
        category, more = ray.get(queue.lease.remote(group[0], me))
        if category is None and not more:
            return
        if category is None:
            time.sleep(SECONDS_BETWEEN_ASKING)
            continue
        ray.get(queue.report.remote(category, **_fit(job, category, config["plan"], queue)))


def _fit(job: FitJob, category: str, plan: FitPlan, queue: Any) -> dict[str, Any]:
    """What became of a category."""
    news: dict[str, Any] = {}
    told = time.monotonic()

    def tell(**changes: Any) -> None:
        nonlocal told
        news.update(changes)
        if time.monotonic() - told >= SECONDS_BETWEEN_NEWS:
            queue.report.remote(category, **news)
            news.clear()
            told = time.monotonic()

    effort = Effort(
        threads=1 if plan.gpus else plan.cpus,
        bank_memory=job.bank_memory,
        checkpoint_seconds=job.checkpoint_seconds,
        on_progress=lambda progress: tell(progress=progress),
        on_checkpoint=lambda: tell(deaths=0),
    )
    try:
        return {"status": FITTED, "result": fit_category(job, category, "cuda" if plan.gpus else "cpu", effort)}
    except torch.AcceleratorError:  # the device is of no more use to this process
        raise
    except Exception as error:  # whatever it is, it must not stop the other categories
        return {"status": FAILED, "error": f"{type(error).__name__}: {error}"}
