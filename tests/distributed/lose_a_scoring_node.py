"""Scores on two nodes and removes one of them in the middle: lose_a_scoring_node.py ARCHIVE MODELS OUTPUT RAY_FOLDER."""

from __future__ import annotations

import json
import sys
from datetime import date

import ray
import ray._private.state
from ray.cluster_utils import Cluster

from differnet_ray.archives.manifest import list_images
from differnet_ray.distributed.index import index_listing
from differnet_ray.distributed.score import ScoreJob, ScoreProgress, models_in_use, score_archive
from differnet_ray.results.runs import plan_run


def main(archive: str, models: str, output: str, ray_folder: str) -> None:
    """Prints what happened as JSON."""
    memory = {"object_store_memory": 150 * 2**20}
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False, "temp_dir": ray_folder, **memory}
    )
    other = cluster.add_node(num_cpus=2, resources={"other": 1}, **memory)
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    cluster.wait_for_nodes()
    listing = list_images([archive])
    in_use, sizes = models_in_use(models, listing.categories, {})
    run = plan_run(dt=date(2026, 2, 3), listing_digest=listing.digest(), models=in_use, options={})
    job = ScoreJob(run=run, index=index_listing(listing), models=models, output=output, maps="all", actors=(2, 2), batch_size=4)
    lost: dict[str, int] = {}

    def lose_one(progress: ScoreProgress) -> None:
        if progress.all_done >= listing.table.num_rows // 4 and not lost:
            lost["at"] = progress.all_done
            lost["actors"] = _actors_on(other.node_id)
            cluster.remove_node(other, allow_graceful=False)

    record = score_archive(job, sizes, lose_one)
    alive = sum(node["Alive"] for node in ray.nodes())
    print(json.dumps({"record": record, "lost": lost, "alive": alive}))
    ray.shutdown()
    cluster.shutdown()


def _actors_on(node_id: str) -> int:
    """How many scoring and map actors live on a node."""
    alive = [actor for actor in ray._private.state.actors().values() if actor["State"] == "ALIVE"]
    return sum("MapWorker" in actor["ActorClassName"] and actor["Address"]["NodeID"] == node_id for actor in alive)


if __name__ == "__main__":
    main(*sys.argv[1:])
