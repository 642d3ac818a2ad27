"""Ray Data's checkpointing, which is beta: the one place that knows it. Its contract is `tests/distributed/test_resume.py`.

The ids of the rows of each written file are kept, so that a plan that is run again after a kill neither loses a row nor
writes one twice: files whose ids were not committed are removed, and finished ids are dropped right after the read.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import ray.data
from ray.data.checkpoint import CheckpointConfig

from differnet_ray.distributed.resources import cluster_size
from differnet_ray.errors import DifferNetError
from differnet_ray.storage.files import arrow_filesystem, delete, exists, list_files
from differnet_ray.storage.locations import S3

CPUS_PER_FILTER = 16
FILTER_BYTES = 100 * 2**20  # that the actor that knows finished ids reserves; Ray's own 1 GiB is too much for small machines
_PENDING = ".pending.parquet"
_REFUSAL = "this plan could not be resumed after a kill: Ray Data resumes"


def _settle(uri: str) -> None:
    """Removes pending notes of rows that are noted as finished as well.

    S3 has no move: a kill between its copy and its deletion leaves both, of which Ray Data would take the first for a reason
    to remove the rows, and the second for one not to do them again.
    """
    notes = {file.uri for file in list_files(uri)} if exists(uri) else set()
    for note in notes:
        if note.endswith(_PENDING) and note.removesuffix(_PENDING) + ".parquet" in notes:
            delete(note)


@contextmanager
def resumable(uri: str) -> Iterator[None]:
    """A plan that is made and executed in the block keeps the `image_id` of finished rows below a URI, and skips those there.

    Raises:
        DifferNetError: the plan is none that Ray Data can resume: it is not Read ... Write, or was made outside of the block.
    """
    _settle(uri)
    filesystem, path = arrow_filesystem(uri)
    config = CheckpointConfig(
        id_column="image_id",
        checkpoint_path=(S3 if uri.startswith(S3) else "") + path,
        override_filesystem=filesystem,
        delete_checkpoint_on_success=False,  # or a run that was killed before it was published would score all again
    )
    config.checkpoint_actor_memory_bytes = FILTER_BYTES
    config.checkpoint_actor_pool_max_size = max(1, cluster_size()[0] // CPUS_PER_FILTER)  # each takes a CPU
    context = ray.data.DataContext.get_current()
    context.checkpoint_config = config
    try:
        with warnings.catch_warnings():  # Ray Data only warns where it cannot keep its promise
            warnings.filterwarnings("error", message="You've enabled checkpointing, but")
            yield
    except UserWarning as error:
        raise DifferNetError(f"{_REFUSAL} Read ... Write only") from error
    else:
        if not exists(uri):
            raise DifferNetError(f"{_REFUSAL} plans that were made where its context says so")
    finally:
        context.checkpoint_config = None
