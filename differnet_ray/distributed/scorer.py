"""A replica of the online endpoint that scores."""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from ray import serve

from differnet_ray.archives.decoders import Decoders
from differnet_ray.distributed.serve import ServeJob, log_with_serve
from differnet_ray.pipeline.loaded_models import ModelCache
from differnet_ray.pipeline.score_query import ScoreQuery
from differnet_ray.pipeline.served_models import ServedModels
from differnet_ray.pipeline.stages import best_device
from differnet_ray.queries import Answer, ModelsState, Problem, Query

NICENESS = 5  # the proxy and the ingress answer while it computes


class Scorer:
    """A process that scores, each image by one thread, as the scoring job does."""

    def __init__(self, job: dict[str, Any]) -> None:
        os.nice(NICENESS)
        log_with_serve()
        torch.set_num_threads(1)
        values = ServeJob.from_dict(job)
        threads, limits = values.plan.threads, values.limits
        cache = ModelCache(values.models, best_device(), values.memory)
        replica = f"{serve.get_replica_context().replica_id.unique_id}-{os.getpid()}"
        self._models = ServedModels(cache, values.pinned, values.look_seconds, replica)
        decoders = Decoders(threads, max_bytes=limits.image_bytes, max_pixels=limits.pixels, seconds=limits.decode_seconds)
        self._answer = ScoreQuery(self._models, decoders)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="score")

    async def score(self, query: Query) -> Answer | Problem:
        """The answer, or why there is none; of a cancelled query that has not begun, nothing is computed."""
        await self._here(query.category)
        came = time.perf_counter()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._answer, query, came)
        except Problem as problem:
            return problem

    async def state(self) -> ModelsState:
        """What is known of the models."""
        return self._models.state()

    @serve.multiplexed(max_num_models_per_replica=1000)  # type: ignore[untyped-decorator]
    async def _here(self, category: str) -> str:
        """Tells the router that this replica has a category's model; how many stay is up to `ModelCache`, by bytes."""
        return category
