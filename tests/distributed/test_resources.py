"""What jobs take of a cluster: each worker and actor fits on one node."""

from __future__ import annotations

import pytest
import ray

from differnet_ray.distributed.resources import FitPlan, ScorePlan, plan_fit, plan_score

GIB = 2**30


def node(cpus: float, gpus: float = 0, memory: float = 64 * GIB, *, alive: bool = True) -> dict[str, object]:
    return {"Alive": alive, "Resources": {"CPU": cpus, "memory": memory} | ({"GPU": gpus} if gpus else {})}


@pytest.mark.parametrize(
    ("nodes", "n_categories", "wanted", "expected"),
    [
        ([node(2)], 8, {}, FitPlan(2, 1, 0)),
        ([node(2)], 1, {}, FitPlan(1, 2, 0)),
        ([node(8), node(8)], 1, {}, FitPlan(1, 8, 0)),  # not 16: no node has them
        ([node(8), node(8), node(8)], 2, {}, FitPlan(2, 8, 0)),
        ([node(8), node(8), node(8)], 4, {}, FitPlan(4, 4, 0)),
        ([node(8), node(8, alive=False)], 2, {}, FitPlan(2, 4, 0)),
        ([node(0), node(3)], 2, {"max_parallel": 1}, FitPlan(1, 3, 0)),
        ([node(16, memory=9 * GIB)], 16, {}, FitPlan(4, 4, 0)),
        ([node(16, memory=GIB)], 16, {}, FitPlan(1, 16, 0)),
        ([node(16, gpus=2)], 15, {}, FitPlan(2, 8, 1)),
        ([node(16, gpus=1)], 15, {"gpus_per_fit": 0.25}, FitPlan(4, 4, 0.25)),
        ([node(16, gpus=1)], 15, {"gpus_per_fit": 0.2}, FitPlan(5, 3, 0.2)),
        ([node(16, gpus=4), node(64)], 15, {"gpus_per_fit": 2.0}, FitPlan(2, 8, 2)),
        ([node(4)], 15, {"gpus_per_fit": 0.25}, FitPlan(4, 1, 0)),  # no GPU: CPUs
    ],
)
def test_workers_fit_on_the_nodes(
    nodes: list[dict[str, object]],
    n_categories: int,
    wanted: dict[str, float],
    expected: FitPlan,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    plan = plan_fit(n_categories, memory=2 * GIB, **{"max_parallel": None, "gpus_per_fit": None, **wanted})  # type: ignore[arg-type]
    assert plan == expected


@pytest.mark.parametrize(
    ("nodes", "actors", "expected"),
    [
        ([node(2)], None, ScorePlan(1, 1, 2, 0, 0)),
        ([node(16)], None, ScorePlan(1, 4, 4, 0, 0)),
        ([node(2), node(2), node(2)], None, ScorePlan(1, 3, 2, 0, 0)),  # not 1 of 4 threads: no node has them
        ([node(16)], (2, 8), ScorePlan(2, 8, 2, 0, 0)),
        ([node(2)], (3, 3), ScorePlan(3, 3, 1, 0, 0)),
        ([node(16, gpus=2)], None, ScorePlan(1, 2, 1, 0.75, 0.25)),
        ([node(16, gpus=2)], (1, 4), ScorePlan(1, 4, 1, 0.375, 0.125)),
        ([node(16, gpus=2)], (3, 3), ScorePlan(3, 3, 1, 0.375, 0.125)),  # two on one, one on the other
    ],
)
def test_scoring_actors_share_the_cores_or_gpus(
    nodes: list[dict[str, object]], actors: tuple[int, int] | None, expected: ScorePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    totals: dict[str, float] = {}
    for each in nodes:
        for name, amount in each["Resources"].items():  # type: ignore[attr-defined]
            totals[name] = totals.get(name, 0) + amount
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray, "cluster_resources", lambda: totals)
    assert plan_score(actors) == expected
