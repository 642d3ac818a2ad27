"""Ray Data's checkpointing, which is beta: the one place that knows it. Its contract is `tests/distributed/test_resume.py`.

The ids of the rows of each written file are kept, so that a plan that is run again after a kill neither loses a row nor
writes one twice: files whose ids were not committed are removed, and finished ids are dropped right after the read.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import ray.data
from ray.data.checkpoint import CheckpointConfig

from differnet_ray.data.storage import S3, arrow_filesystem
from differnet_ray.errors import DifferNetError

FILTER_BYTES = 100 * 2**20  # that the actor that knows finished ids reserves; Ray's own 1 GiB is too much for small machines


@contextmanager
def resumable(uri: str) -> Iterator[None]:
    """Plans that are executed in the block keep the `image_id` of finished rows below a URI, and skip those kept there.

    Raises:
        DifferNetError: a plan is none that Ray Data can resume: it is not Read ... Write.
    """
    filesystem, path = arrow_filesystem(uri)
    config = CheckpointConfig(
        id_column="image_id",
        checkpoint_path=(S3 if uri.startswith(S3) else "") + path,
        override_filesystem=filesystem,
        delete_checkpoint_on_success=False,  # or a run that was killed before it was published would score all again
    )
    config.checkpoint_actor_memory_bytes = FILTER_BYTES
    context = ray.data.DataContext.get_current()
    planner, refusal = logging.getLogger("ray.data._internal.planner.planner"), _Refusal()
    context.checkpoint_config = config
    planner.addHandler(refusal)
    try:
        yield
    finally:
        context.checkpoint_config = None
        planner.removeHandler(refusal)


class _Refusal(logging.Handler):
    """Ray Data only warns where it cannot keep its promise."""

    def emit(self, record: logging.LogRecord) -> None:
        if "doesn't support checkpointing" in record.getMessage():
            raise DifferNetError("this plan could not be resumed after a kill: Ray Data resumes Read ... Write only")
