"""The checks of `doctor` that ask Ray."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import ray

from differnet_ray.checks import Check
from differnet_ray.distributed.resources import cluster
from differnet_ray.distributed.submit import Jobs
from differnet_ray.errors import DifferNetError

SECONDS_TO_ANSWER = 10.0
GIB = 2**30


def check_cluster() -> Iterator[Check]:
    """Whether the cluster that `RAY_ADDRESS` names answers, else whether one can be started here, and what it has."""
    address = os.environ.get("RAY_ADDRESS") or "a local cluster"
    if "://" in address and not address.startswith("ray://"):
        yield _by_http(address)
        return
    began = time.monotonic()
    try:
        with cluster():
            has = ray.cluster_resources()
            alive = sum(bool(node["Alive"]) for node in ray.nodes())
    except Exception as error:  # Ray starts processes: whatever goes wrong here is the finding
        said = " ".join(str(error).split())[:300]
        mend = "see RAY_ADDRESS, RAY_AUTH_MODE and RAY_AUTH_TOKEN; for a local one, free memory and ports"
        yield Check("ray", "FAIL", f"{address} does not work: {type(error).__name__}: {said}", mend)
        return
    token = "with a token" if os.environ.get("RAY_AUTH_MODE") == "token" else "without a token"
    cpus, gpus, memory = (has.get(name, 0.0) for name in ("CPU", "GPU", "memory"))
    found = f"{address} answers {token} in {time.monotonic() - began:.0f} s: {alive} node{'s' * (alive != 1)}"
    found += f" with {cpus:g} CPUs, {gpus:g} GPUs, {memory / GIB:.1f} GiB for work"
    if cpus < 2:
        yield Check("ray", "FAIL", found, "give it 2 CPUs: reads and writes need one beside the actors")
    else:
        yield Check("ray", "ok", found)


def _by_http(address: str) -> Check:
    try:
        Jobs(None, SECONDS_TO_ANSWER, lambda text: None)
    except DifferNetError as error:
        return Check("ray", "FAIL", str(error), "see docs/operations.md, submit")
    return Check("ray", "ok", f"{address} takes jobs of Ray {ray.__version__}: use `differnet-ray submit`")
