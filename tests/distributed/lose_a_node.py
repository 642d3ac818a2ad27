"""Fits on a cluster of two nodes and removes one of them in the middle: lose_a_node.py DATA FOLDER RECIPE RAY_FOLDER."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping

import ray
from fit_jobs import in_epochs, job_of
from ray.cluster_utils import Cluster

from differnet_ray.config import Recipe
from differnet_ray.distributed.fit import fit_categories
from differnet_ray.distributed.resources import FitPlan
from differnet_ray.pipeline.fit_state import CategoryState


def main(data: str, folder: str, recipe: str, ray_folder: str) -> None:
    memory = {"object_store_memory": 150 * 2**20}
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "temp_dir": ray_folder, **memory}
    )
    nodes = [cluster.add_node(num_cpus=1, **memory) for _ in range(2)]
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    cluster.wait_for_nodes()
    job = job_of(data, folder, Recipe.from_dict(json.loads(recipe)))
    lost: dict[str, object] = {}

    def lose_one(states: Mapping[str, CategoryState]) -> None:
        running = [category for category, state in states.items() if in_epochs(state)]
        if len(running) == 2 and not lost:
            lost.update({category: states[category].progress.done for category in running})  # type: ignore[union-attr]
            cluster.remove_node(nodes[0], allow_graceful=False)

    states = fit_categories(job, job.listing.categories, FitPlan(2, 1, 0), lose_one)
    resumed = {category: state.result and state.result.resumed for category, state in states.items()}
    statuses = {category: state.status for category, state in states.items()}
    alive = sum(node["Alive"] for node in ray.nodes())
    print(json.dumps({"statuses": statuses, "resumed": resumed, "lost": lost, "alive": alive}))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
