"""Dashboard and rules are over metrics that there are, and the rules say what they shall in the cases of rules_test.yml."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray.dashboard.modules.metrics.dashboards as dashboards_of_ray
import yaml
from cluster_files import CLUSTER, locked, ran, tool
from prometheus_client.parser import text_string_to_metric_families

from differnet_ray import metric_names
from differnet_ray.online.metrics import Metrics

MONITORING = CLUSTER / "monitoring"
NAME = re.compile(r"\b((?:ray|differnet)_[a-z0-9_]+)(?:\{([^}]*)\})?")
PROMTOOL = "Debian's package prometheus has it"
STATUSES = {"ok", "review", "anomalous", "unreadable", "unsupported", "too_large", "missing", "no_model", "failed"}


def dashboard() -> dict[str, Any]:
    return dict(json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8")))


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "rules.yml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> Iterator[tuple[str, str]]:
    """Where an expression is, and the expression."""
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["definition"]


def names_of_ray() -> set[str]:
    """What a run exposed, and for GPUs, which its machine had not, what Ray's own dashboards ask for."""
    said, *names = (Path(__file__).parent / "metrics_of_ray.txt").read_text(encoding="utf-8").splitlines()
    assert f"Ray {locked('ray')} " in said, "Ray is another version: take the names again"
    panels = "".join(path.read_text(encoding="utf-8") for path in Path(dashboards_of_ray.__file__).parent.glob("*.py"))
    return {name for name in names if not name.startswith("#")} | set(re.findall(r"\bray_node_(?:gpus|gram)_\w+", panels))


def test_every_metric_that_is_named_is_one_of_ours_or_of_ray() -> None:
    ours, rays = metric_names.exposed(), names_of_ray()
    seen = set()
    for where, expression in expressions():
        for name, _ in NAME.findall(expression):
            assert name in ours or name in rays, f"{where}: {name}"
            seen.add(name)
    assert len(seen & set(ours)) > 15
    assert len(seen & rays) > 10


def test_labels_of_ours_are_declared() -> None:
    ours = metric_names.exposed()
    for where, expression in expressions():
        for name, selector in NAME.findall(expression):
            labels = set(re.findall(r"(\w+)\s*(?:=|!)", selector))
            assert name not in ours or labels <= set(ours[name]), f"{where}: {name}{{{selector}}}"
        by = set(re.findall(r"\w+", ",".join(re.findall(r"by \(([^)]*)\)", expression))))
        mine = [set(ours[name]) for name, _ in NAME.findall(expression) if name in ours]
        if mine and len(mine) == len(NAME.findall(expression)):
            assert by <= set.union(*mine), f"{where}: by {by}"
        named = set("|".join(re.findall(r'status=~"([a-z_|]+)"', expression)).split("|")) - {""}
        assert named <= STATUSES


def test_the_endpoint_counts_what_is_declared_and_no_more() -> None:
    metrics = Metrics()
    metrics.request("/v1/score", 200, 0.1)
    metrics.image("screw", "ok", {"decode": 1.0})
    kinds = {metric.stem: (metric.kind, metric.help) for metric in metric_names.SERVE}
    families = [f for f in text_string_to_metric_families(metrics.text().decode()) if not f.name.endswith("_created")]
    assert {family.name: (family.type, family.documentation) for family in families} == kinds
    for sample in itertools.chain.from_iterable(family.samples for family in families):
        assert set(sample.labels) == set(metric_names.exposed()[sample.name])


def test_names_are_declared_once() -> None:
    all_of_them = [*metric_names.JOBS, *metric_names.SERVE]
    assert len({metric.name for metric in all_of_them}) == len(all_of_them)
    assert all((metric.kind == "counter") == metric.name.endswith("_total") for metric in all_of_them)
    declared = {value for value in vars(metric_names).values() if isinstance(value, metric_names.Metric)}
    assert declared == set(all_of_them)


def test_panels_have_places_and_sources_of_their_own() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = set(itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["datasource"]["uid"] == "${source}"
        references = [target["refId"] for target in panel.get("targets", [])]
        assert len(set(references)) == len(references)


def test_alerts_say_what_to_do() -> None:
    assert len(rules()) > 8
    for rule in rules():
        assert set(rule["annotations"]) == {"summary", "action"}
        assert rule["labels"]["severity"] in ("critical", "warning", "info")


@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus-kubernetes.yml"])
def test_files_of_prometheus_name_the_rules(name: str) -> None:
    config = yaml.safe_load((MONITORING / name).read_text(encoding="utf-8"))
    assert config["rule_files"] == ["rules.yml"]
    assert "differnet-serve" in {job["job_name"] for job in config["scrape_configs"]}


def test_prometheus_takes_the_rules_and_they_fire_when_they_shall() -> None:
    promtool = tool("promtool", PROMTOOL)
    ran(promtool, "check", "rules", str(MONITORING / "rules.yml"))
    ran(promtool, "test", "rules", str(MONITORING / "rules_test.yml"))
    ran(promtool, "check", "config", "--syntax-only", str(MONITORING / "prometheus.yml"))
